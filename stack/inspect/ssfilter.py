# SPDX-License-Identifier: GPL-2.0-or-later
"""ss's filters: which states, and an expression about the ends of a socket.

    [state STATE | exclude STATE]... [EXPRESSION]

    expression:  term {or term}
    term:        factor {[and] factor}                   two factors side by side are joined by "and"
    factor:      not factor | ( expression ) | condition
    condition:   src|dst [= | !=] HOST                   HOST:  ADDRESS[/LENGTH][:PORT], *:PORT, :PORT, [IPv6]:PORT
                 sport|dport OP PORT                     OP:    = == eq != ne neq < lt > gt <= le >= ge

"|" and "||", "&" and "&&", "!" say the same as or, and, not.  An IPv4 address and its mapped IPv6 address are the same,
in a filter as in a socket: 10.0.2.0/24 is ::ffff:10.0.2.0/120, and both are in ::/0.  (To ss an IPv6 address is never
that of a socket of IPv4; -4 and -6 choose by family.)  Addresses are numbers without a scope; a port may be a service's
name if the caller can look it up.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network
from typing import Final

from stack.inspect.ss import STATES, End, Sock

Condition = Callable[[Sock], bool]
Service = Callable[[str], int]

ALL: Final = frozenset(STATES.values())
CONNECTED: Final = ALL - {"LISTEN", "UNCONN"}
BUCKET: Final = frozenset({"SYN-RECV", "TIME-WAIT"})
LISTENING: Final = frozenset({"LISTEN", "UNCONN"})
DEFAULT: Final = CONNECTED - BUCKET
_GROUPS: Final = {
    "all": ALL,
    "connected": CONNECTED,
    "synchronized": CONNECTED - {"SYN-SENT"},
    "bucket": BUCKET,
    "big": ALL - BUCKET,
}
_SINGLE: Final = {
    "established": "ESTAB",
    "syn-sent": "SYN-SENT",
    "syn-recv": "SYN-RECV",
    "fin-wait-1": "FIN-WAIT-1",
    "fin-wait-2": "FIN-WAIT-2",
    "time-wait": "TIME-WAIT",
    "closed": "UNCONN",
    "close-wait": "CLOSE-WAIT",
    "last-ack": "LAST-ACK",
    "listening": "LISTEN",
    "closing": "CLOSING",
}
_ALSO: Final = {"close": "UNCONN", **{name.lower(): name for name in ALL}}  # what it prints is understood too

_TOKEN: Final = re.compile(r"\s*(\(|\)|&&|\|\||<=|>=|==|!=|[=<>!&|]|[^\s()=<>!&|]+)")
_OPERATORS: Final[dict[str, Callable[[int, int], bool]]] = {
    **dict.fromkeys(("=", "==", "eq"), operator.eq),
    **dict.fromkeys(("!=", "ne", "neq"), operator.ne),
    **dict.fromkeys(("<", "lt"), operator.lt),
    **dict.fromkeys((">", "gt"), operator.gt),
    **dict.fromkeys(("<=", "le"), operator.le),
    **dict.fromkeys((">=", "ge"), operator.ge),
}
_AND: Final = ("and", "&", "&&")
_OR: Final = ("or", "|", "||")
_NOT: Final = ("not", "!")
# A level takes up to four of Python's thousand frames, both when it is read and when a socket is judged.
MAX_DEPTH: Final = 64
_PORT_DIGITS: Final = 5
_MAPPED: Final = 0xFFFF << 32  # ::ffff:0:0, whose first 96 bits are those of all mapped addresses
_MAPPED_BITS: Final = 96
_EXAMPLE: Final = "such as: vnic ss -t state established '( dport = :7 or dst 10.0.2.0/24 )'"


class FilterError(ValueError):
    """A filter that is none: fact, evidence and remedy."""

    def __init__(self, fact: str, evidence: str, remedy: str = _EXAMPLE) -> None:
        super().__init__(fact)
        self.fact = fact
        self.evidence = evidence
        self.remedy = remedy


def _no_service(name: str) -> int:
    raise OSError(f"{name} is no number")


@dataclass(frozen=True)
class Filter:
    """``states`` are those that can be shown; calling it says whether a socket is."""

    states: frozenset[str]
    condition: Condition | None = None

    def __call__(self, sock: Sock) -> bool:
        return sock.state in self.states and (self.condition is None or self.condition(sock))


def parse(words: Iterable[str], states: frozenset[str] = DEFAULT, service: Service = _no_service) -> Filter:
    """The words of a command line as a filter; FilterError.  ``states`` hold unless the words name some; ``service``
    gives the port of a service's name, or raises OSError."""
    tokens = _Tokens(words)
    chosen: frozenset[str] | None = None
    while (clause := tokens.take("state", "exclude", "excl")) is not None:
        named = states_of(tokens.next(f"a state behind {clause!r}"))
        if clause == "state":
            chosen = (chosen or frozenset()) | named
        else:
            chosen = (ALL if chosen is None else chosen) - named
    shown = states if chosen is None else chosen
    return Filter(shown, None if tokens.at_end() else _Expression(tokens, service).whole())


def states_of(name: str) -> frozenset[str]:
    """One state or a group of them, by the manual page's name or by what is printed."""
    known = name.lower()
    if known in _GROUPS:
        return _GROUPS[known]
    single = _SINGLE.get(known) or _ALSO.get(known)
    if single is None:
        raise FilterError(
            f"there is no state {name!r}", f"there are {', '.join([*_SINGLE, *_GROUPS])}", "name one of these"
        )
    return frozenset({single})


class _Tokens:
    """The words, cut where operators and parentheses begin, and how many were read."""

    def __init__(self, words: Iterable[str]) -> None:
        self._all: list[str] = [token for word in words for token in _TOKEN.findall(word)]
        self._at = 0

    def at_end(self) -> bool:
        return self._at == len(self._all)

    def take(self, *wanted: str) -> str | None:
        """The next one if it is one of these."""
        if self.at_end() or self._all[self._at].lower() not in wanted:
            return None
        return self.next("").lower()

    def next(self, expected: str) -> str:
        if self.at_end():
            raise FilterError("the filter ends too early", f"{self._read()}there should be {expected}")
        self._at += 1
        return self._all[self._at - 1]

    def wrong(self, expected: str) -> FilterError:
        """The next one is not what has to be there."""
        if self.at_end():
            return FilterError("the filter ends too early", f"{self._read()}there should be {expected}")
        found = self._all[self._at]
        return FilterError(
            "the filter is not understood",
            f"{self._read()}there should be {expected}, and there is {found!r}",
        )

    def follows(self, *stops: str) -> bool:
        """Whether something is next that is none of these."""
        return not self.at_end() and self._all[self._at].lower() not in stops

    def _read(self) -> str:
        before = " ".join(self._all[: self._at])
        return f"after {before!r} " if before else ""


class _Expression:
    """Recursive descent, one method a rule of the grammar; ``depth`` counts the "not" and "(" round it."""

    def __init__(self, tokens: _Tokens, service: Service) -> None:
        self._tokens = tokens
        self._service = service

    def whole(self) -> Condition:
        condition = self._expression()
        if not self._tokens.at_end():
            raise self._tokens.wrong("the end")
        return condition

    def _expression(self, depth: int = 0) -> Condition:
        terms = [self._term(depth)]
        while self._tokens.take(*_OR):
            terms.append(self._term(depth))
        return terms[0] if len(terms) == 1 else lambda sock: any(term(sock) for term in terms)

    def _term(self, depth: int) -> Condition:
        factors = [self._factor(depth)]
        while self._tokens.take(*_AND) or self._tokens.follows(*_OR, ")"):
            factors.append(self._factor(depth))
        return factors[0] if len(factors) == 1 else lambda sock: all(factor(sock) for factor in factors)

    def _factor(self, depth: int) -> Condition:
        if depth > MAX_DEPTH:
            evidence = f"more than {MAX_DEPTH} of not and ( are inside each other"
            raise FilterError("the filter is nested too deep", evidence)
        if self._tokens.take(*_NOT):
            inner = self._factor(depth + 1)
            return lambda sock: not inner(sock)
        if self._tokens.take("("):
            inner = self._expression(depth + 1)
            if not self._tokens.take(")"):
                raise self._tokens.wrong("and, or, or a closing parenthesis")
            return inner
        return self._condition()

    def _condition(self) -> Condition:
        end = self._tokens.take("src", "dst", "sport", "dport")
        if end is None:
            raise self._tokens.wrong("src, dst, sport, dport, not or a parenthesis (state comes first)")
        if end in ("src", "dst"):
            return self._about_host(end)
        relation = self._tokens.take(*_OPERATORS)
        if relation is None:
            raise self._tokens.wrong("one of = != < > <= >=")
        compare = _OPERATORS[relation]
        port = _port(self._tokens.next("a port").removeprefix(":"), self._service)
        return lambda sock: compare(_end_of(sock, end).port, port)

    def _about_host(self, end: str) -> Condition:
        differs = self._tokens.take("=", "==", "eq", "!=", "ne", "neq") in ("!=", "ne", "neq")
        matches = _host(self._tokens.next("an address"), self._service)
        return lambda sock: matches(_end_of(sock, end)) is not differs


def _end_of(sock: Sock, name: str) -> End:
    return sock.local if name.startswith("s") else sock.peer


def _port(text: str, service: Service) -> int:
    """A number, or what the service of that name has; a name may also be one that cannot be looked up at all, such as
    a byte of a command line that is no UTF-8."""
    number = text.isdecimal()
    try:
        port = int(text[: _PORT_DIGITS + 1]) if number else service(text)
    except (OSError, ValueError) as error:
        raise _no_port(text, str(error)) from error
    if port > 0xFFFF or (number and len(text) > _PORT_DIGITS):
        raise _no_port(text, "ports end at 65535")
    return port


def _no_port(text: str, evidence: str) -> FilterError:
    return FilterError(f"{text!r} is no port", evidence, "ports are numbers: dport = :7")


def _host(text: str, service: Service) -> Callable[[End], bool]:
    """What a HOST says of an end; either part may be missing or "*"."""
    try:
        host, port = _split(text)
        network = None if host in ("", "*") else _network(host)
    except ValueError as error:
        remedy = "addresses are numbers: dst 10.0.2.15:40000, dst fd00::/64, dst [fd00::2]:80"
        raise FilterError(f"{text!r} is no address", str(error), remedy) from error
    wanted = None if port in ("", "*") else _port(port, service)

    def matches(end: End) -> bool:
        there = network is None or _mapped(end.address) in network
        return there and wanted in (None, end.port)

    return matches


def _network(host: str) -> IPv6Network:
    """ADDRESS[/LENGTH], of IPv4 that of the mapped addresses, so that any end can be looked for in it; ValueError.

    A scope is refused: ``in`` ignores it, and sockets of every link would be found."""
    if "%" in host:
        raise ValueError(f"{host!r} has a scope, and the ends of sockets have none to compare it with")
    network = ip_network(host, strict=False)
    if isinstance(network, IPv6Network):
        return network
    return IPv6Network((_mapped(network.network_address), _MAPPED_BITS + network.prefixlen))


def _mapped(address: IPv4Address | IPv6Address) -> IPv6Address:
    """ "::ffff:10.0.2.15" of 10.0.2.15, an address of IPv6 as it is."""
    return address if isinstance(address, IPv6Address) else IPv6Address(_MAPPED | int(address))


def _split(text: str) -> tuple[str, str]:
    """Address and port of "10.0.2.15/24:80", "[fd00::2]:80", ":80", "fd00::2"; ValueError if a bracket is anywhere but
    round an IPv6 address.  The length is behind the brackets or, as ss has it, inside them."""
    text = text.removeprefix("inet6:").removeprefix("inet:")
    if text.startswith("["):
        host, closing, rest = text[1:].partition("]")
        length, _, port = rest.partition(":")
        if not closing or ":" not in host or (length and not length.startswith("/")):
            raise ValueError(
                "brackets are round an IPv6 address, and behind them is /LENGTH, :PORT or nothing"
            )
        return host + length, port
    if text.count(":") > 1:  # an IPv6 address by itself
        return text, ""
    host, _, port = text.partition(":")
    return host, port
