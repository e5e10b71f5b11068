BCFTOOLS = TOOLS.bcftools.shell
VCF = f"results/{config['vcf']}"
COMPRESSED = config["vcf"].endswith(".gz")
VCF_INDEX = [f"{VCF}.tbi"] if COMPRESSED else []


def count_slices():
    """How many pieces the genome is called in: by the size of the FASTA, known before it is
    indexed, so that the same genome is always cut at the same places."""
    fasta = Path(config["reference"])
    size = fasta.stat().st_size if fasta.is_file() else 0
    return max(1, round(size / (config["slice_size_mb"] * 1_000_000)))


SLICES = count_slices()
# diploid; allele depths and genotype qualities as GATK's callers write them
PILEUP = "--no-version -Ou -X illumina -a AD,DP"
CALL = "--no-version -mv -a GQ"
