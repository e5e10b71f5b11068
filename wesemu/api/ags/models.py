"""AGS's answers. Every value is a string, as in the API reference."""

from pydantic import BaseModel, Field


class Started(BaseModel):
    """StartWorkflow. `warning` is our addition."""

    job_name: str = Field(serialization_alias="JobName")
    warning: str | None = None


class Job(BaseModel):
    """One entry of DescribeWorkflows. `status` is our addition."""

    cluster_id: str
    job_name: str
    create_time: str
    status: str


class Jobs(BaseModel):
    """DescribeWorkflows."""

    jobs: list[Job]


class Description(BaseModel):
    """DescirbeWorkflow (the API's own spelling). What may be None is our addition.

    `total_bases` is counted, `sla_bases` what the service level goes by; all times are the
    emulated clock's but `real_seconds`.
    """

    create_time: str
    duration: str
    finish_time: str
    input_data_size: str
    job_name: str
    job_namespace: str
    output_data_size: str
    status: str
    total_bases: str
    total_reads: str
    user_input_data: str
    pace: str | None = None
    sla_bases: str | None = None
    sla_minutes: str | None = None
    sla_price_cny: str | None = None
    sla_deadline: str | None = None
    sla_predicted_finish: str | None = None
    sla_met: str | None = None
    sla_charged_cny: str | None = None
    real_seconds: str | None = None
    node: str | None = None
    node_note: str | None = None
    error_message: str | None = None
