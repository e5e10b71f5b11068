"""One canonical form for an allele, so that the same change is always written alike."""


def canonical(sequence: str, start: int, ref: str, alt: str) -> tuple[int, str, str]:
    """Trim what `ref` and `alt` share and move a pure indel as far left as `sequence` lets it.

    `start` is the 0-based place of `ref` in `sequence`. The answer carries no anchor base: an
    insertion has an empty `ref`, a deletion an empty `alt`; both are empty where nothing changes.
    With an anchor it is the normal form of Tan et al. 2015 (doi 10.1093/bioinformatics/btv112).
    """
    while ref and alt and ref[-1] == alt[-1]:
        ref, alt = ref[:-1], alt[:-1]
    shared = 0
    while shared < min(len(ref), len(alt)) and ref[shared] == alt[shared]:
        shared += 1
    start, ref, alt = start + shared, ref[shared:], alt[shared:]
    if bool(ref) == bool(alt):
        return start, ref, alt
    changed = ref or alt
    shift = 0
    while start > shift and changed[-1 - shift % len(changed)] == sequence[start - 1 - shift]:
        shift += 1
    turn = shift % len(changed)
    changed = changed[len(changed) - turn :] + changed[: len(changed) - turn]
    return start - shift, changed if ref else "", changed if alt else ""


def anchored(sequence: str, start: int, ref: str, alt: str) -> tuple[int, str, str]:
    """The canonical form as a VCF writes it: indels begin with the base before them.

    A change before the first base is anchored by the base after it (VCF 4.2, section 1.4.1).
    """
    start, ref, alt = canonical(sequence, start, ref, alt)
    if ref and alt:
        return start, ref, alt
    if start == 0:
        after = sequence[len(ref)]
        return start, ref + after, alt + after
    before = sequence[start - 1]
    return start - 1, before + ref, before + alt
