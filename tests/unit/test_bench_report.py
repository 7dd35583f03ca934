"""The benchmark's arithmetic and its reading of answers: what a wrong table would come from."""

import asyncio

import pytest

from bench.http1 import Response, connect
from bench.report import number, ratio, summarize, table
from bench.results import Figure, Outcome, Row, quantile


def row(name: str, per_second: float, cpu_ms: float, *, driver_share: float = 0.1) -> Row:
    return Row(
        name=name,
        ops=100,
        per_second=per_second,
        p50_ms=2.0,
        p99_ms=4.0,
        cpu_ms=cpu_ms,
        rss_mib=64.0,
        driver_share=driver_share,
    )


def test_each_value_is_the_median_of_the_rounds() -> None:
    rounds = [Outcome(rows=[row("send", speed, cpu)]) for speed, cpu in ((10, 9), (30, 1), (20, 5))]
    found = summarize(rounds).rows["send"]
    assert (found.per_second, found.cpu_ms) == (20, 5)


def test_figures_measured_once_stay_as_they_are() -> None:
    summary = summarize([Outcome(rows=[row("send", 1, 1)]), Outcome(figures=[Figure("start", "s", 0.5)])])
    assert summary.figures["start"].value == 0.5


def test_equal_mistakes_of_all_rounds_are_added_up_by_scenario() -> None:
    rounds = [Outcome(scenario="send", mistakes={"lost": 2}), Outcome(scenario="send", mistakes={"lost": 3})]
    assert summarize(rounds).mistakes == {"send: lost": 5}


@pytest.mark.parametrize(("q", "expected"), [(0.5, 2.0), (0.99, 4.0), (0.25, 1.0), (1.0, 4.0)])
def test_a_quantile_is_a_value_that_was_measured(q: float, expected: float) -> None:
    assert quantile([4.0, 1.0, 3.0, 2.0], q) == expected


def test_a_ratio_above_one_means_better_for_every_kind_of_figure() -> None:
    assert ratio(200, 100, more_is_better=True) == "2.00"
    assert ratio(100, 200, more_is_better=False) == "2.00"
    assert ratio(300, 200, more_is_better=False) == "0.667"


def test_a_ratio_of_nothing_is_a_dash() -> None:
    assert ratio(0.0, 3.0, more_is_better=False) == "–"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00"), (0.12345, "0.123"), (0.9996, "1.00"), (9.996, "10.0"), (12.34, "12.3"), (99.96, "100")],
)
def test_numbers_have_three_digits_that_matter(value: float, text: str) -> None:
    assert number(value) == text


def test_two_servers_stand_side_by_side_and_what_one_lacks_is_a_dash() -> None:
    ours = summarize([Outcome(rows=[row("send", 200, 0.5)])])
    theirs = summarize([Outcome(rows=[row("send", 50, 5), row("login", 7, 8)])])
    lines = table({"Weft": ours, "Synapse": theirs}).splitlines()
    send = next(line.split() for line in lines if line.startswith("send"))
    login = next(line.split() for line in lines if line.startswith("login"))
    assert send[1:4] == ["200", "50.0", "4.00"]
    assert login[1:4] == ["–", "7.00", "–"]
    assert len({len(line) for line in lines if line.startswith(("send", "login"))}) == 1


def test_one_server_alone_has_no_ratios() -> None:
    text = table({"Weft": summarize([Outcome(rows=[row("send", 200, 0.5)])])})
    assert "×" not in text
    assert text.splitlines()[-1].split() == ["send", "200", "2.00", "4.00", "0.500", "64.0"]


def test_a_row_in_which_the_driver_was_busy_is_marked() -> None:
    summary = summarize([Outcome(rows=[row("send", 200, 0.5, driver_share=0.95), row("sync", 1, 1)])])
    lines = table({"Weft": summary}).splitlines()
    assert [line.split("  ")[0] for line in lines[-2:]] == ["send *", "sync"]


async def answer_to_one_request(pieces: list[bytes]) -> Response:
    """What the client makes of an answer that arrives in these pieces; then the server hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        connection = (await connect("127.0.0.1", server.sockets[0].getsockname()[1], 1))[0]
        response = await connection.request(b"GET / HTTP/1.1\r\n\r\n")
        connection.close()
    return response


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"],
        [b"HTTP/1.1 200 OK\r\nContent-Le", b"ngth: 5\r\n\r\nhel", b"lo"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"],
        [
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r",
            b"\nhel\r\n2\r\nl",
            b"o\r\n0\r\n",
            b"\r\n",
        ],
    ],
)
async def test_an_answer_is_the_same_however_it_arrives(pieces: list[bytes]) -> None:
    response = await answer_to_one_request(pieces)
    assert (response.status, response.body) == (200, b"hello")


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more"],
    ],
)
async def test_a_broken_answer_is_no_success(pieces: list[bytes]) -> None:
    assert (await answer_to_one_request(pieces)).status == 0


def test_of_three_servers_the_first_one_is_compared_with_each() -> None:
    summaries = {
        name: summarize([Outcome(rows=[row("send", speed, 1)])])
        for name, speed in (("A", 30), ("B", 60), ("C", 3))
    }
    heading, line = table(summaries).splitlines()[1:4:2]
    assert heading.split()[:6] == ["operation", "A", "B", "C", "×B", "×C"]
    assert line.split()[:6] == ["send", "30.0", "60.0", "3.00", "0.500", "10.0"]
