"""Ids: reproducible with a seed, unpredictable without."""

import uuid

from wesemu.runs.data_directory import IdSource


def test_requests_ids_are_random_uuids_in_capitals() -> None:
    ids = IdSource(seed=1)
    drawn = [ids.request_id() for _ in range(1000)]
    assert len(set(drawn)) == 1000
    for text in drawn:
        read = uuid.UUID(text)
        assert (read.version, read.variant) == (4, uuid.RFC_4122)
        assert text == str(read).upper()


def test_no_seed_tells_requests_and_uploads_ids() -> None:
    first, second = IdSource(seed=1), IdSource(seed=1)
    assert first.request_id() != second.request_id()
    assert first.upload_id() != second.upload_id()


def test_requests_do_not_change_the_ids_of_runs() -> None:
    quiet, busy = IdSource(seed=1), IdSource(seed=1)
    busy.request_id()
    busy.upload_id()
    assert quiet.run_id() == busy.run_id()
