"""Requests and answers of the control API. Unknown members of requests are refused."""

from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Speed(_Request):
    """Emulated seconds a real second; 0 stops emulated time."""

    speed: float


class Advance(_Request):
    """How far emulated time leaps: all of it together, more than nothing."""

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
    def _leaps(self) -> "Advance":
        if not self.step:
            raise ValueError("say how far: seconds, minutes, hours or days")
        return self


class Reset(_Request):
    """`buckets`: what lies in the buckets goes, too."""

    buckets: bool = False


class Seed(_Request):
    """The number from which ids are drawn; null: from chance."""

    seed: int | None


class NextRun(_Request):
    """What goes wrong with a run: `runs.terms.Fault`."""

    misses_sla: bool = False
    late_minutes: int = Field(default=1, ge=1, le=10**6)
    fails_at_task: int | None = Field(default=None, ge=1, le=10**6)
    runs_out_of_disk: bool = False


class Fault(_Request):
    """Either the next `times` calls of `operation`, or the next `times` runs."""

    operation: str | None = None
    next_run: NextRun | None = None
    times: int = Field(default=1, ge=1, le=10**6)
    status: int | None = Field(default=None, ge=400, le=599)
    delay: float = Field(default=0, ge=0, le=3600)
    drop: bool = False

    @model_validator(mode="after")
    def _is_one_thing(self) -> "Fault":
        if (self.operation is None) == (self.next_run is None):
            raise ValueError("name either an operation or next_run")
        if self.operation is not None and self.status is None and not (self.delay or self.drop):
            raise ValueError("say what happens: status, delay or drop")
        return self


class Clock(BaseModel):
    """Emulated time, wall time and how fast the first one runs."""

    now: datetime
    wall: datetime
    speed: float
    pace: str


class Orders(BaseModel):
    """The faults that still wait."""

    faults: list[Fault]


class Wiped(BaseModel):
    """What a reset has removed."""

    runs: int
    buckets: bool


class Readiness(BaseModel):
    """`reasons` why the server does not serve yet; empty when it does."""

    ready: bool
    reasons: list[str]


class Change(BaseModel):
    """A run as it is now, for those who watch; `state` is null once it was removed."""

    id: str
    state: str | None = None
    handle: str | None = None
    owner: str | None = None
    workflow: str | None = None
    created: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
