"""NetworkConfig: options of the socket, of TLS and of proxies; a part of ServerConfig."""

import enum
import ipaddress
import re
from dataclasses import dataclass
from functools import partial

from engine.config import option
from engine.errors import OptionError

ANY_PROXY = "*"
UNIX_PROXY = "unix"  # all processes that connect to the Unix socket

_MODE = re.compile(r"0?[0-7]{3}")

_network = partial(option, group="Network")


class CertReqs(enum.StrEnum):
    """Client certificates: none, optional or required. Also parses the numbers of Python's ssl module and vLLM."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"

    @classmethod
    def _missing_(cls, value: object) -> "CertReqs | None":
        return {"0": cls.NONE, "1": cls.OPTIONAL, "2": cls.REQUIRED}.get(str(value))


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Options of the network. Raises OptionError for options that contradict each other."""

    uds: str | None = _network(None, "Unix socket to listen on, in place of --host and --port.", metavar="PATH")
    uds_mode: str = _network("600", "Permissions of the socket, in octal.", metavar="MODE")
    ssl_certfile: str | None = _network(
        None, "PEM file with the certificate and its intermediates; the server then speaks HTTPS only.", metavar="FILE"
    )
    ssl_keyfile: str | None = _network(
        None, "PEM file with the private key (default: in --ssl-certfile).", metavar="FILE"
    )
    ssl_keyfile_password: str | None = _network(
        None, "Password of the private key; better in HEADRACE_SSL_KEYFILE_PASSWORD."
    )
    ssl_ca_certs: str | None = _network(
        None, "PEM file with the authorities that sign clients' certificates.", metavar="FILE"
    )
    ssl_cert_reqs: CertReqs | None = _network(
        None,
        "Whether clients need a certificate signed by --ssl-ca-certs; also 0, 1 or 2 (default: required with "
        "--ssl-ca-certs).",
    )
    enable_ssl_refresh: bool = _network(True, "Reload these files when they change; SIGHUP reloads them too.")
    forwarded_allow_ips: tuple[str, ...] = _network(
        (),
        "Proxy whose X-Forwarded-For and X-Forwarded-Proto are trusted: an address, a network, 'unix' for --uds, or "
        "*; repeatable (default: none).",
        metavar="IP",
    )

    allowed_hosts: tuple[str, ...] = _network(
        (),
        "Host name that requests from this machine may use for a server without keys, besides localhost and the "
        "machine's own; others are refused, against DNS rebinding; repeatable (default: none).",
        metavar="NAME",
    )

    def __post_init__(self) -> None:
        """Raise OptionError for options that contradict each other."""
        if not _MODE.fullmatch(self.uds_mode):
            raise OptionError(f"--uds-mode is {self.uds_mode!r}; it must be three octal digits, such as 600 or 660")
        if self.ssl_certfile is None:
            for name in ("ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs", "ssl_cert_reqs"):
                if getattr(self, name) not in (None, CertReqs.NONE):
                    flag = "--" + name.replace("_", "-")
                    raise OptionError(f"{flag} needs --ssl-certfile, without which the server speaks plain HTTP")
        elif self.ssl_ca_certs is None and self.ssl_cert_reqs not in (None, CertReqs.NONE):
            raise OptionError("--ssl-cert-reqs needs --ssl-ca-certs, the authorities whose certificates are accepted")
        elif self.ssl_ca_certs is not None and self.ssl_cert_reqs is CertReqs.NONE:
            raise OptionError(
                "--ssl-ca-certs is for clients' certificates, but --ssl-cert-reqs none requests none; leave one out"
            )
        for proxy in self.proxies:
            _check_proxy(proxy)

    @property
    def has_tls(self) -> bool:
        return self.ssl_certfile is not None

    @property
    def cert_reqs(self) -> CertReqs:
        """The value of --ssl-cert-reqs, or its default."""
        if self.ssl_cert_reqs is not None:
            return self.ssl_cert_reqs
        return CertReqs.NONE if self.ssl_ca_certs is None else CertReqs.REQUIRED

    @property
    def proxies(self) -> tuple[str, ...]:
        """The trusted proxies of --forwarded-allow-ips; a value may be a list separated by commas, as for uvicorn."""
        return tuple(part.strip() for given in self.forwarded_allow_ips for part in given.split(","))


def _check_proxy(proxy: str) -> None:
    if proxy in (ANY_PROXY, UNIX_PROXY):
        return
    try:
        ipaddress.ip_network(proxy)
    except ValueError as error:
        raise OptionError(
            f"--forwarded-allow-ips is {proxy!r}; it must be an address such as 10.0.0.7, a network such as "
            "10.0.0.0/8, 'unix' for all that connect to --uds, or *"
        ) from error
