"""SynthesisClient: requests to a running server or a teacher, which wait and try again where that may help."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import httpx

from engine.errors import OptionError, StartupError
from server.commands.alone import say

_ATTEMPTS = 6
_MAX_WAIT_S = 60.0
_MAX_RETRY_AFTER_S = 600.0  # a longer one ends the run instead
_TEMPORARY = {408, 409, 425, 429, 500, 502, 503, 504}
_TIMEOUT = httpx.Timeout(connect=10.0, read=600.0, write=60.0, pool=None)


class RequestedModel(NamedTuple):
    """A model that an option names. capability: what it must do, as model cards name it; "" for nothing special."""

    option: str
    name: str
    capability: str = ""


class SynthesisClient:
    """An asynchronous client of one address. Errors that may pass are tried again after their Retry-After, and each is
    reported on stderr. An address that cannot be connected to and never answered is more likely wrong than
    restarting, so it is not tried again."""

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        key_source: str,
        authorities: ssl.SSLContext | None = None,
        remedy: str = "what is done is stored: run the same command later to continue",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """key_source: where the key comes from, for errors. remedy: advice for a server that remains unavailable.
        Raises OptionError for an address or a key that no request can have."""
        self.url = url.rstrip("/").removesuffix("/v1")
        _check_address(self.url)
        if key and not (key.isascii() and key.isprintable()):
            raise OptionError(f"the key in {key_source} has a line break or a letter beyond ASCII; copy the key again")
        self._key_source = key_source
        self._remedy = remedy
        self._sleep = sleep
        self._has_answered = False
        self._last_said = ""  # since parallel requests meet the same problem
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=_TIMEOUT,
            trust_env=False,
            verify=True if authorities is None else authorities,
            transport=transport,
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def model_names(self) -> list[str]:
        """Return the names of the server's models, aliases included. Raises StartupError."""
        return [str(each["id"]) for each in await self._model_cards()]

    async def _model_cards(self) -> list[dict[str, Any]]:
        models = await self.json("GET", "/v1/models")
        try:
            return [{**each, "id": each["id"]} for each in models["data"]]
        except (KeyError, TypeError):
            raise OptionError(f"{self.url}/v1/models is no list of models; check the address") from None

    async def check_models(self, requested: Iterable["RequestedModel"]) -> None:
        """Raise OptionError if the server lacks a model, or says that the model cannot do what is asked of it."""
        cards = {str(each["id"]): each for each in await self._model_cards()}
        for each in requested:
            if each.name not in cards:
                has = f"it has {', '.join(list(cards)[:20])}" if cards else "it has none"
                raise OptionError(f"{each.option}: {self.url} has no model {each.name}; {has}")
            if each.capability and each.capability not in (known := _capabilities(cards[each.name])) and known:
                raise OptionError(
                    f"{each.option}: the model {each.name} of {self.url} can do {', '.join(known)}, and not "
                    f"{each.capability}; name another one"
                )

    async def only_model(self, option: str = "--model") -> str:
        """Return the name of the server's model. Raises OptionError if there are several; `option`
        is the one that chooses."""
        names = await self.model_names()
        if len(names) != 1:
            raise OptionError(f"{self.url} has {len(names)} models; choose one with {option}: {', '.join(names[:20])}")
        return names[0]

    async def warn_of_unlisted(self, model: str) -> None:
        """Warn of a model that the endpoint does not list. That is no error, since some endpoints have more names than
        they list, and others list none. Raises OptionError for an address that cannot be used."""
        try:
            response = await self.send("GET", "/v1/models", may_refuse=True)
            names = [str(each["id"]) for each in response.json()["data"]]
        except OptionError:
            raise
        except (StartupError, ValueError, KeyError, TypeError):
            return
        if names and model not in names:
            say(f"{self.url} lists no model {model}, so it may refuse the requests; it lists {', '.join(names[:20])}")

    async def pause(self, seconds: float) -> None:
        await self._sleep(seconds)

    async def json(self, method: str, path: str, **given: Any) -> Any:
        """Return the JSON of an answer. Raises StartupError."""
        response = await self.send(method, path, **given)
        try:
            return response.json()
        except ValueError:
            raise StartupError(f"{self.url}{path} answers without JSON; check that this is a model server") from None

    async def send(self, method: str, path: str, *, may_refuse: bool = False, **given: Any) -> httpx.Response:
        """Return the answer. Raises StartupError if the server cannot be reached or remains unavailable, and for a
        refusal unless `may_refuse`; OptionError, which is one, for an address that never answered or that redirects."""
        wait_s, problem = 0.0, ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                self._say(f"{self.url} {problem}; attempt {attempt + 1} of {_ATTEMPTS} follows in {wait_s:,.0f} s")
                await self._sleep(wait_s)
            wait_s = min(_MAX_WAIT_S, 2.0**attempt)
            try:
                response = await self._http.request(method, path, **given)
            except httpx.RequestError as error:
                problem = f"cannot be reached ({_cause(error)})"
                if isinstance(error, httpx.ConnectError) and not self._has_answered:
                    raise OptionError(
                        f"{self.url} {problem}; check the address, and that a server runs there"
                    ) from None
                continue
            self._has_answered = True
            if response.status_code not in _TEMPORARY:
                self._last_said = ""
                if not may_refuse or response.has_redirect_location:
                    self.check(response)
                return response
            problem = f"answers {response.status_code} ({_message(response)})"
            if (named_s := _retry_after_s(response)) is not None:
                if named_s > _MAX_RETRY_AFTER_S:
                    problem += f" and wants to be asked again in {named_s:,.0f} s"
                    break
                wait_s = named_s
        raise StartupError(f"{self.url} {problem}; {self._remedy}")

    def _say(self, line: str) -> None:
        if line != self._last_said:
            say(line)
            self._last_said = line

    def check(self, response: httpx.Response) -> None:
        """Raise StartupError for a refusal, and OptionError for a redirection."""
        if response.has_redirect_location:
            raise OptionError(
                f"{self.url} answers {response.status_code} and redirects to {response.headers['location']}, which is "
                "not followed with your key and texts; give the address that answers itself"
            )
        if response.is_success:
            return
        remedy = f"; check the key in {self._key_source}" if response.status_code in (401, 403) else ""
        raise StartupError(f"{response.url} answers {response.status_code}: {_message(response)}{remedy}")


def _capabilities(card: Mapping[str, Any]) -> list[str]:
    """Return what a model can do, by its card in /v1/models; [] if the server does not say it (yet)."""
    own = card.get("headrace")
    if not isinstance(own, dict):
        return []
    generates = ["completion"] if "default_sampling_params" in own else []  # also before its tokenizer is read
    return own.get("capabilities") or generates


def _check_address(url: str) -> None:
    try:
        has_host = bool(httpx.URL(url).host)
    except httpx.InvalidURL as error:
        raise OptionError(f"{url} is no address: {error}; give one such as http://127.0.0.1:8000") from None
    if not has_host:
        raise OptionError(f"{url} names no host; give an address such as http://127.0.0.1:8000")


def _retry_after_s(response: httpx.Response) -> float | None:
    """Return the seconds until the header's time; None if it is missing, or neither a number nor an HTTP date."""
    value = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    if (until_s := _timestamp(value)) is None:
        return None
    sent_s = _timestamp(response.headers.get("date", ""))  # by the clock of the other machine, which may be wrong
    return max(0.0, until_s - (time.time() if sent_s is None else sent_s))


def _timestamp(http_date: str) -> float | None:
    """Return the seconds since 1970; None for a text that is no date of RFC 9110, 5.6.7."""
    try:
        date = parsedate_to_datetime(http_date)
    except (ValueError, OverflowError):
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def _cause(error: httpx.RequestError) -> str:
    """Return the first cause that has a text, such as a refused connection; the error's own text is only general."""
    text, cause = str(error) or type(error).__name__, error.__cause__ or error.__context__
    while cause is not None:
        text = str(cause) or text
        cause = cause.__cause__ or cause.__context__
    return text


def _message(response: httpx.Response) -> str:
    try:
        return _printable(str(response.json()["error"]["message"]))
    except (ValueError, KeyError, TypeError):
        return printable_start(response)


def printable_start(response: httpx.Response) -> str:
    """Return the first 200 characters of a body, in which control characters are escaped."""
    return _printable(response.text[:200])


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
