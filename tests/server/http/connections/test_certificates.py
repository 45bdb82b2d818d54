"""Certificates and keys that cannot be used, and the subject of a client's certificate."""

import os
import re
import ssl
from pathlib import Path
from typing import Any

import pytest

from engine.errors import StartupError
from server.config.network import CertReqs, NetworkConfig
from server.http.connections import certificates
from server.http.connections.certificates import Certificates, make_context, subject_of
from tests.helpers.certificates import Authority, Issued


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def own(authority: Authority) -> Issued:
    return authority.issue("server")


def test_no_version_before_1_2_and_no_renegotiation(own: Issued) -> None:
    context = make_context(NetworkConfig(ssl_certfile=own.cert, ssl_keyfile=own.key))
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    ("given", "mode"), [(None, ssl.CERT_REQUIRED), (CertReqs.OPTIONAL, ssl.CERT_OPTIONAL)], ids=["default", "optional"]
)
def test_clients_show_certificates_where_there_are_authorities(
    authority: Authority, own: Issued, given: CertReqs | None, mode: ssl.VerifyMode
) -> None:
    config = NetworkConfig(ssl_certfile=own.cert, ssl_keyfile=own.key, ssl_ca_certs=authority.cert, ssl_cert_reqs=given)
    assert make_context(config).verify_mode is mode


def test_one_file_may_hold_both(own: Issued, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_text(Path(own.key).read_text() + Path(own.cert).read_text())
    make_context(NetworkConfig(ssl_certfile=str(both)))


def test_an_encrypted_key_needs_its_password(authority: Authority, own: Issued) -> None:
    key = authority.encrypt(own, "sesame")
    make_context(NetworkConfig(ssl_certfile=own.cert, ssl_keyfile=key, ssl_keyfile_password="sesame"))
    with pytest.raises(StartupError, match="is encrypted; give its password in HEADRACE_SSL_KEYFILE_PASSWORD"):
        make_context(NetworkConfig(ssl_certfile=own.cert, ssl_keyfile=key))
    with pytest.raises(StartupError, match="is its password right"):
        make_context(NetworkConfig(ssl_certfile=own.cert, ssl_keyfile=key, ssl_keyfile_password="open"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ssl_certfile": "/no/such"}, "cannot read --ssl-certfile /no/such: No such file or directory"),
        ({"ssl_keyfile": "/no/such"}, "cannot read --ssl-keyfile /no/such: No such file or directory"),
        ({"ssl_certfile": "KEY"}, "has no certificate in PEM form"),
        ({"ssl_keyfile": "CERT"}, "has no private key in PEM form"),
        ({"ssl_keyfile": None}, "no private key in PEM form (-----BEGIN PRIVATE KEY-----); name the key's file with"),
        ({"ssl_keyfile": "OTHER"}, "is not that of the certificate in"),
        ({"ssl_certfile": "DAMAGED"}, "cannot be read ("),
        ({"ssl_ca_certs": "/no/such"}, "cannot read --ssl-ca-certs /no/such"),
        ({"ssl_ca_certs": "KEY"}, "has no certificates in PEM form"),
    ],
)
def test_what_will_not_do_is_named(
    authority: Authority, own: Issued, tmp_path: Path, changes: dict[str, str | None], message: str
) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_text(Path(own.cert).read_text().replace("MII", "///"))
    files = {"KEY": own.key, "CERT": own.cert, "OTHER": authority.issue("other").key, "DAMAGED": str(damaged)}
    given = {"ssl_certfile": own.cert, "ssl_keyfile": own.key, **changes}
    config = NetworkConfig(**{name: path and files.get(path, path) for name, path in given.items()})  # type: ignore[arg-type]
    with pytest.raises(StartupError, match=re.escape(message)):
        make_context(config)


@pytest.mark.parametrize("name", ["cert", "ca_certs"])
def test_a_file_that_goes_away_while_it_is_read_leaves_the_certificate(
    authority: Authority, own: Issued, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    copies = {"cert": tmp_path / "cert", "ca_certs": tmp_path / "ca_certs"}
    copies["cert"].write_text(Path(own.cert).read_text())
    copies["ca_certs"].write_text(Path(authority.cert).read_text())
    config = NetworkConfig(ssl_certfile=str(copies["cert"]), ssl_keyfile=own.key, ssl_ca_certs=str(copies["ca_certs"]))
    loaded = Certificates(config)
    before = loaded.context
    read = certificates._read

    def read_and_remove(flag: str, path: str) -> str:
        text = read(flag, path)
        if path == str(copies[name]):
            Path(path).unlink()
        return text

    monkeypatch.setattr(certificates, "_read", read_and_remove)
    loaded.reload()
    assert loaded.context is before


def test_a_pipe_in_place_of_a_certificate_is_not_waited_for(own: Issued, tmp_path: Path) -> None:
    cert = tmp_path / "cert.pem"
    cert.write_bytes(Path(own.cert).read_bytes())
    certificates = Certificates(NetworkConfig(ssl_certfile=str(cert), ssl_keyfile=own.key))
    context = certificates.context
    cert.unlink()
    os.mkfifo(cert)

    certificates.reload()

    assert certificates.context is context


def test_a_password_that_openssl_does_not_take_is_told(authority: Authority, own: Issued) -> None:
    key = authority.encrypt(own, "sesame")
    with pytest.raises(StartupError, match="cannot be read"):
        make_context(NetworkConfig(ssl_certfile=own.cert, ssl_keyfile=key, ssl_keyfile_password="x" * 2000))


def test_a_reload_takes_authorities_away_too(authority: Authority, own: Issued, tmp_path: Path) -> None:
    trusted = tmp_path / "trusted"
    trusted.write_text(Path(authority.cert).read_text())
    certificates = Certificates(NetworkConfig(ssl_certfile=own.cert, ssl_keyfile=own.key, ssl_ca_certs=str(trusted)))
    before = certificates.context
    trusted.write_text(Path(Authority(tmp_path / "new", "new authority").cert).read_text())
    certificates.reload()
    assert certificates.context is not before
    (only,) = certificates.context.get_ca_certs()
    assert only["subject"] == ((("commonName", "new authority"),),)


@pytest.mark.parametrize(
    ("certificate", "subject"),
    [
        (None, None),
        ({}, None),
        ({"subject": ((("commonName", "alice"),),)}, "CN=alice"),
        ({"subject": ((("countryName", "CH"),), (("commonName", "a b,CN=root"),))}, r"CN=a\20b\2cCN\3droot,C=CH"),
        ({"subject": ((("commonName", "x\nINFO y"), ("surname", "Å")),)}, r"surname=Å,CN=x\0aINFO\20y"),
    ],
)
def test_subjects_cannot_be_taken_for_others(certificate: dict[str, Any] | None, subject: str | None) -> None:
    assert subject_of(certificate) == subject
