"""What the first bytes of a file say it is. Pure."""

GZIP_MAGIC = b"\x1f\x8b"

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"BAM\x01", "a BAM file"),
    (b"CRAM", "a CRAM file"),
    (b"@HD\t", "a SAM file"),
    (b"@SQ\t", "a SAM file"),
    (b"##fileformat=VCF", "a VCF file"),
    (b"BCF\x02", "a BCF file"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ", "xz data"),
    (b"\x28\xb5\x2f\xfd", "zstd data"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"%PDF", "a PDF document"),
    (b"\xef\xbb\xbf", "text with a UTF-8 byte order mark"),
    (GZIP_MAGIC, "gzip data inside gzip data"),
)


def looks_like(head: bytes) -> str:
    """Name what `head`, the first (decompressed) bytes of a file that is not FASTQ, belong to."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")):
        return "an HTML or XML page, perhaps an error page that was saved instead of the reads"
    if text.startswith((b"{", b"[")):
        return "JSON"
    if head.startswith(b">"):
        return "FASTA"
    if any(byte < 9 or 13 < byte < 32 or byte > 126 for byte in head):
        return "binary data"
    return "text in another format"
