"""A reference with a contig of any length, without disk space."""

from pathlib import Path

from wesemu.genomics.bwa_index import _index_sizes


def write_long_reference(fasta: Path, length: int) -> Path:
    """Write an indexed FASTA with names and sizes only. The large files are sparse."""
    contigs = [("c1", length), ("c2", 1000)]
    bases = sum(length for _, length in contigs)
    lines = [f"{bases} {len(contigs)} 11"]
    for name, size in contigs:
        lines += [f"0 {name} (null)", f"0 {size} 0"]
    Path(f"{fasta}.ann").write_text("\n".join(lines) + "\n")
    Path(f"{fasta}.amb").write_text(f"{bases} {len(contigs)} 0\n")
    fai = [f"{name}\t{size}\t4\t60\t61" for name, size in contigs]
    Path(f"{fasta}.fai").write_text("\n".join(fai) + "\n")
    for suffix, size in {"": bases, **_index_sizes(bases)}.items():
        with Path(f"{fasta}{suffix}").open("wb") as file:
            file.truncate(size)
    return fasta
