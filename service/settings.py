"""Every knob of the service: environment variables OODGATE_*, or flags of `oodgate serve` with the same names.

The text under a setting says how to choose it; it is what --help prints.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.bundle.decision import Guarantee

PREFIX = "OODGATE_"
SECRET = ("api_keys", "admin_keys")


class WrongSetting(Exception):
    """A setting that cannot be used; one sentence names it, its value and what is allowed."""


class Settings(BaseSettings):
    """Frozen; made by `load_settings`, which turns what is wrong into a sentence."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", protected_namespaces=())

    models_dir: Path = Field(Path("models"), description="Folder of the bundles, laid out as <name>/<version>/.")
    model: str | None = Field(None, description="Model that answers when a request names none. Needed once the folder holds more than one.")
    host: str = Field("127.0.0.1", description="Address to listen on. 0.0.0.0 in a container; keep 127.0.0.1 behind a proxy on the same machine.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one and says which.")
    loaded_versions: int = Field(
        1, ge=1, le=16, description="Versions of each model that are served, the highest ones. More than 1 to compare, or to pin clients to one."
    )
    watch: bool = Field(False, description="Load what is new or changed in models_dir, looking every few seconds. Else: SIGHUP, or the reload route.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="cuda refuses to start when the session did not really get CUDA; auto takes it where there is a GPU."
    )
    intra_op_threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Threads of one inference. Left out: the CPUs that the container may use, which is right when it serves one model.",
    )
    max_batch_size: int = Field(
        32,
        ge=1,
        le=4096,
        description="Most images in one inference. Raise it on a GPU until throughput stops growing; on CPUs little is gained above 32.",
    )
    max_queue_delay_ms: float = Field(
        0,
        ge=0,
        le=1000,
        description="How long an inference may wait for company. 0 never delays a lone request; batches then form while another one runs.",
    )
    max_queue_size: int = Field(
        256,
        ge=1,
        le=1_000_000,
        description="Images that may wait in a burst, above it 429; in lasting overload as many as keep the CPUs busy. "
        "Images per second times the seconds that a client would wait.",
    )
    request_deadline_ms: float = Field(
        10_000,
        gt=0,
        le=600_000,
        description="From a request's arrival; 504 when it passes before its turn. Just below the clients' time-out. "
        "A client may ask for less: X-Request-Timeout-Ms.",
    )
    body_timeout_ms: float = Field(
        30_000, gt=0, le=600_000, description="How long a body may take to arrive, above it 408. The slowest upload that you want to wait for."
    )
    max_body_bytes: int = Field(
        16 * 2**20, ge=1024, le=2**31, description="Largest request body. The largest picture you accept, times max_images_per_request if you use it."
    )
    max_bodies_bytes: int | None = Field(
        None,
        ge=1024,
        le=2**40,
        description="All request bodies that are being read or answered together, above it 429. Memory that you can spare for uploads. "
        "Left out: 256 MiB, or max_body_bytes if that is more.",
    )
    max_image_pixels: int = Field(
        40_000_000,
        ge=64,
        le=178_000_000,
        description="Largest picture by width x height, read from its header. Decoding needs 4 to 16 bytes a pixel.",
    )
    max_images_per_request: int = Field(32, ge=1, le=4096, description="Most images in one request; at most max_queue_size.")
    postprocessor: str | None = Field(None, description="OOD score that decides. Left out: the one that the bundle names as default.")
    alpha: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of ID images that may be rejected. Left out: the bundle's. Choose what rejecting good pictures may cost you.",
    )
    alpha_min: float = Field(0.001, gt=0, lt=1, description="Smallest alpha that a request may ask for.")
    alpha_max: float = Field(0.5, gt=0, lt=1, description="Largest alpha that a request may ask for.")
    guarantee: Guarantee = Field(
        "pac", description="pac: at most alpha with the bundle's confidence (95 %). marginal: at most alpha on average over calibration sets."
    )
    shadow_postprocessors: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Scores, separated by commas, whose rejects are counted but never answered: for comparing before you switch."
    )
    state_dir: Path | None = Field(
        None,
        description="Folder in which the drift alarm's evidence, the prevalence window and the feedback counts outlive a restart; "
        "one for each server. None: they begin anew.",
    )
    prevalence_window: int = Field(
        2000,
        ge=100,
        le=1_000_000,
        description="Latest images that the share of OOD is estimated from. Fewer follow faster, more are steadier: 2000 give +-1.3 points.",
    )
    feedback_requests: int = Field(
        10_000,
        ge=0,
        le=10_000_000,
        description="Latest requests that feedback may name, about 300 bytes each. Your requests per second times the seconds until feedback comes.",
    )
    capture_dir: str | None = Field(
        None,
        min_length=1,
        description="Folder or URL (s3://bucket/folder, with the extra capture) for rejected pictures and a control sample of accepted ones. "
        "None: no picture is ever kept. Think of whose pictures they are.",
    )
    capture_control_share: float = Field(
        0.01, ge=0, le=1, description="Share of accepted pictures that is captured as well, to hold the rejected ones against. 0: none."
    )
    capture_per_minute: int = Field(
        20,
        ge=1,
        le=10_000,
        description="Most pictures captured in a minute, a random choice of that minute's; as many control ones again, and each model apart. "
        "As many as may be encoded: a large photograph takes a second of a CPU.",
    )
    capture_per_day: int = Field(
        1000, ge=1, le=1_000_000, description="As capture_per_minute, of a day (UTC): a random choice of it all. As many as you will look at."
    )
    capture_per_class: int = Field(
        200,
        ge=1,
        le=1_000_000,
        description="Of those, most of one predicted class, so that no class takes the day. From capture_per_day on: no limit.",
    )
    capture_max_bytes: int = Field(
        2**30, ge=2**16, le=2**50, description="Most bytes in capture_dir; the oldest days go first. It holds over restarts. What you will pay for."
    )
    capture_ttl_days: float = Field(
        30,
        gt=0,
        le=36_500,
        description="Age at which captured pictures are removed, earlier processes' too, while a server runs. What your privacy rules say.",
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="Keys, separated by commas, that open all but probes, metrics, documentation and the page. None: open to all."
    )
    api_keys_file: Path | None = Field(None, description="File with more api_keys, one a line: for secrets that are mounted. SIGHUP reads it again.")
    admin_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="Keys that may also reload models over HTTP. None: nobody may; SIGHUP and watch need no key."
    )
    admin_keys_file: Path | None = Field(None, description="File with more admin_keys, one a line. SIGHUP reads it again.")
    drain_seconds: float = Field(
        5,
        ge=0,
        le=3600,
        description="After SIGTERM, how long to serve on while /readyz says 503. Longer than your load balancer takes to notice.",
    )
    keep_alive_seconds: int = Field(
        75,
        ge=1,
        le=3600,
        description="How long an idle connection, a request's head or the reading of an answer may take. Longer than load balancers', often 60 s.",
    )
    log_format: Literal["json", "console"] = Field("console", description="json for a log collector, console for people.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="info has one line per request; debug has the probes' too; warning has none of them."
    )

    @field_validator("port", mode="before")
    @classmethod
    def is_no_service_link(cls, value: Any) -> Any:
        if isinstance(value, str) and value.startswith(("tcp://", "udp://")):
            raise ValueError(
                "this is an address that Kubernetes puts there for a Service named oodgate; set enableServiceLinks: false in the pod's spec, "
                "name the Service otherwise, or give --port"
            )
        return value

    @field_validator("models_dir", "state_dir", "api_keys_file", "admin_keys_file", mode="before")
    @classmethod
    def is_some_place(cls, value: Any) -> Any:
        if value == "":
            raise ValueError("an empty path would be the folder that the server was started in; give that as .")
        return value

    @field_validator("shadow_postprocessors", "api_keys", "admin_keys", mode="before")
    @classmethod
    def split_commas(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        found = tuple(key.strip() for key in value.split(",") if key.strip())
        if not found and info.field_name in SECRET:
            # None would open everything.
            raise ValueError("there is no key in it; leave it out where none is needed")
        return found

    @model_validator(mode="after")
    def agrees_with_itself(self) -> "Settings":
        if self.alpha_min > self.alpha_max:
            raise ValueError(f"alpha_min is {self.alpha_min:g}, it must be at most alpha_max, {self.alpha_max:g}")
        if self.alpha is not None and not self.alpha_min <= self.alpha <= self.alpha_max:
            raise ValueError(f"alpha is {self.alpha:g}, it must be between alpha_min, {self.alpha_min:g}, and alpha_max, {self.alpha_max:g}")
        if self.max_images_per_request > self.max_queue_size:
            raise ValueError(
                f"max_images_per_request is {self.max_images_per_request}, it must be at most max_queue_size, {self.max_queue_size}, "
                "or such a request could never be answered"
            )
        if self.max_bodies_bytes is not None and self.max_bodies_bytes < self.max_body_bytes:
            raise ValueError(f"max_bodies_bytes is {self.max_bodies_bytes}, it must be at least max_body_bytes, {self.max_body_bytes}")
        return self


def load_settings(**given: Any) -> Settings:
    """Settings from the environment, overridden by what is given. Raises WrongSetting."""
    try:
        return Settings(**given)
    except ValidationError as exc:
        error = exc.errors()[0]
        if not error["loc"]:
            raise WrongSetting(error["msg"].removeprefix("Value error, ")) from None
        name = str(error["loc"][0]).removeprefix(PREFIX.lower())
        allowed = error["msg"].removeprefix("Value error, ")
        allowed = allowed[0].lower() + allowed[1:]
        found = "wrong" if name in SECRET else f"{str(error['input'])!r}"
        raise WrongSetting(f"setting {name} ({PREFIX}{name.upper()}, {flag(name)}) is {found}: {allowed}") from None


def unknown_variables(environment: Iterable[str]) -> list[str]:
    """Variables that look like settings and are none: most likely misspelt. Those that Kubernetes makes up are left out."""
    names = (name for name in environment if name.startswith(PREFIX) and name.removeprefix(PREFIX).lower() not in Settings.model_fields)
    return sorted(name for name in names if not re.search(r"_(SERVICE_(HOST|PORT.*)|PORT_\d.*)$", name))


def flag(name: str) -> str:
    """The command-line flag of a setting."""
    return "--" + name.replace("_", "-")
