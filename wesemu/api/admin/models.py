"""Request and response bodies of the control API. Requests reject unknown members."""

from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


class Speed(_Request):
    """Emulated seconds per real second; 0 stops emulated time."""

    speed: float


class Advance(_Request):
    """How far to advance emulated time: the sum of all members, which must be positive."""

    seconds: float = Field(default=0, ge=0, le=10**10)
    minutes: float = Field(default=0, ge=0, le=10**9)
    hours: float = Field(default=0, ge=0, le=10**7)
    days: float = Field(default=0, ge=0, le=10**6)

    @property
    def step(self) -> timedelta:
        return timedelta(
            seconds=self.seconds, minutes=self.minutes, hours=self.hours, days=self.days
        )

    @model_validator(mode="after")
    def _is_positive(self) -> "Advance":
        if not self.step:
            raise ValueError("say how far: seconds, minutes, hours or days")
        return self


class Reset(_Request):
    """`buckets`: also remove all objects."""

    buckets: bool = False


class SeedRequest(_Request):
    """The seed of generated ids; null for random ids."""

    seed: int | None


class NextRun(_Request):
    """A fault of a run (`runs.model.InjectedFault`). `late_minutes` implies `misses_sla`."""

    misses_sla: bool = False
    late_minutes: int | None = Field(default=None, ge=1, le=10**6)
    fails_at_task: int | None = Field(default=None, ge=1, le=10**6)
    runs_out_of_disk: bool = False

    @model_validator(mode="after")
    def _is_something(self) -> "NextRun":
        if "misses_sla" in self.model_fields_set and not self.misses_sla and self.late_minutes:
            raise ValueError("a run that is late misses its SLA; leave out misses_sla: false")
        if self.late_minutes is not None:
            self.misses_sla = True
        if not (self.misses_sla or self.fails_at_task or self.runs_out_of_disk):
            raise ValueError("say what goes wrong: misses_sla, fails_at_task or runs_out_of_disk")
        return self


class FaultBody(_Request):
    """A fault of the next `times` requests of `operation`, or of the next `times` runs."""

    operation: str | None = Field(default=None, min_length=1, max_length=2048)
    next_run: NextRun | None = None
    times: int = Field(default=1, ge=1, le=10**6)
    status: int | None = Field(default=None, ge=400, le=599)
    delay: float = Field(default=0, ge=0, le=3600)
    drop: bool = False
    code: str | None = Field(default=None, pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,99}$")
    message: str | None = Field(default=None, min_length=1, max_length=1000)
    after: bool = False

    @field_validator("message")
    @classmethod
    def _is_text(cls, message: str | None) -> str | None:
        if message is not None and not message.isprintable():
            raise ValueError("must have printable characters only")
        return message

    @model_validator(mode="after")
    def _is_one_thing(self) -> "FaultBody":
        if (self.operation is None) == (self.next_run is None):
            raise ValueError("name either an operation or next_run")
        if self.next_run is not None:
            self._check_run()
        else:
            self._check_call()
        return self

    def _check_run(self) -> None:
        of_calls = {"status", "delay", "drop", "code", "message", "after"}
        given = [name for name in sorted(of_calls) if getattr(self, name)]
        if given:
            raise ValueError(f"{', '.join(given)} can only happen to an operation, not to a run")

    def _check_call(self) -> None:
        if self.status is None and (self.code or self.message):
            raise ValueError("an error with a code or a message needs a status")
        if self.drop and self.status is not None:
            raise ValueError("a call that is dropped has no status; say one of the two")
        if self.after and self.status is None and not self.delay:
            self.drop = True  # the answer is lost
        if self.status is None and not (self.delay or self.drop):
            raise ValueError("say what happens: status, delay, drop or after")


class ClockResponse(BaseModel):
    """Emulated time, wall time, and the speed of emulated time."""

    now: datetime
    wall: datetime
    speed: float
    pace: str


class FaultList(BaseModel):
    """The faults that have not occurred yet."""

    faults: list[FaultBody]


class LoggedRequest(BaseModel):
    """A request of one of the other APIs (`api.base.RecentRequest`)."""

    at: datetime
    operation: str
    method: str
    path: str
    status: int
    milliseconds: float
    owner: str
    client: str
    unread: list[str]
    error: str | None


class RequestList(BaseModel):
    """The last requests, oldest first."""

    requests: list[LoggedRequest]


class ResetReport(BaseModel):
    """The number of removed runs, and whether the buckets were emptied."""

    runs: int
    buckets: bool


class SnapshotReport(BaseModel):
    """The numbers of runs, buckets and references that a snapshot has brought."""

    runs: int
    buckets: int
    references: int


class ReferenceFromBucket(_Request):
    """A FASTA in a bucket, to register as `name` with the index of `mapper`."""

    name: str = Field(min_length=1, max_length=64)
    location: str = Field(min_length=1, max_length=2048)
    mapper: str = Field(default="bwa", pattern=r"^bwa(-mem2|-mem3)?$")


class ReferenceReport(BaseModel):
    """A reference: `state` is receiving, indexing, ready or failed (with `error`).

    `bytes` is the size of what the server has received. `sequences` is null until it is ready.
    """

    name: str
    state: str
    bytes: int | None = None
    sequences: int | None = None
    alternates: int | None = None
    indexes: list[str] | None = None
    error: str | None = None


class ReferenceList(BaseModel):
    """The registered references, and those that are being added or could not be."""

    references: list[ReferenceReport]


class Prune(_Request):
    """Selects the runs that ended at least `older_than_days` ago."""

    older_than_days: float = Field(ge=0)
    keep_outputs: bool = False
    dry_run: bool = False


class PruneReport(BaseModel):
    """The runs and bytes that were removed, or would be in a dry run."""

    runs: int
    freed_bytes: int


class ReadinessResponse(BaseModel):
    """`reasons` why the server is not ready; empty if it is."""

    ready: bool
    reasons: list[str]


class AdminChange(BaseModel):
    """The current state of a run. `state` is null if the run was removed."""

    id: str
    state: str | None = None
    handle: str | None = None
    owner: str | None = None
    workflow: str | None = None
    created: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
