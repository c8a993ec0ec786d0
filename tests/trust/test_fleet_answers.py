"""Attacks on a device's patience and memory, and addresses, tokens and keys that are none: it keeps what it has."""

from __future__ import annotations

import gzip
import signal
import subprocess
import sys
import time

import pytest
from common import DEMO, Command, Learned
from fleet import (
    CHANNEL,
    JSON,
    OTHER_KEY,
    TOKEN,
    Device,
    Fleet,
    Handler,
    Misbehaviour,
    about,
    command,
    fails,
)

from edge_qprompt import Pack


def start(handler: Handler, *lines: str) -> None:
    """A head written by hand; the connection ends with the answer."""
    handler.close_connection = True
    handler.wfile.write("\r\n".join(("HTTP/1.1 200 OK", f"Content-Type: {JSON}", *lines, "", "")).encode())


def endless(handler: Handler) -> None:
    start(handler)
    while True:
        handler.wfile.write(b" " * 65536)


def drip_body(handler: Handler) -> None:
    start(handler, "Content-Length: 500")
    drip(handler, b" ")


def drip_head(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    drip(handler, b"x")


def drip_continue(handler: Handler) -> None:
    drip(handler, b"HTTP/1.1 102 Processing\r\n\r\n")


def drip(handler: Handler, piece: bytes) -> None:
    """A piece every 50 ms, for a minute."""
    handler.close_connection = True
    for _ in range(1200):
        handler.wfile.write(piece)
        time.sleep(0.05)


def silent(handler: Handler) -> None:
    handler.close_connection = True
    time.sleep(3)


def says_longer(handler: Handler) -> None:
    start(handler, "Content-Length: 999999999")
    handler.wfile.write(b"{}")


def says_shorter(handler: Handler) -> None:
    start(handler, "Content-Length: 10")
    handler.wfile.write(b" " * 500)


def interrupted(handler: Handler) -> None:
    start(handler, "Transfer-Encoding: chunked")
    handler.wfile.write(b'5\r\n{"pay')


def hangs_up(handler: Handler) -> None:
    handler.close_connection = True


def no_http(handler: Handler) -> None:
    handler.close_connection = True
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")


def bomb(handler: Handler) -> None:
    handler.send(200, JSON, gzip.compress(bytes(10_000_000)), Content_Encoding="gzip")


def bomb_of_brackets(handler: Handler) -> None:
    handler.send(200, JSON, b"[" * 8000)


def html(handler: Handler) -> None:
    handler.send(200, "text/html", b"<html>log in</html>")


def redirect(handler: Handler) -> None:
    handler.send(302, "text/html", b"", Location="http://elsewhere/")


def failed(handler: Handler) -> None:
    handler.send(500, "text/html", b"<h1>Oops</h1>")


def failed_at_length(handler: Handler) -> None:
    handler.send(500, JSON, b"[" * 99_999)


def full(handler: Handler) -> None:
    handler.problem(503, "full", Retry_After="7")


def clears_the_screen(handler: Handler) -> None:
    handler.problem(404, "\x1b[2Jgone\r\n")


def chatty(handler: Handler) -> None:
    handler.problem(401, "x" * 9999)


SLOW = "is too slow (0.5 s in all, 10 s to connect): try again, or with a longer --timeout"
AWAY = "cannot get an answer from http://127.0.0.1:"
LONG = "sends more than the {most} bytes that this may have"
HOSTILE: dict[Misbehaviour, tuple[str, str]] = {  # what is said of a statement, and of a pack
    endless: (LONG, LONG),
    drip_body: (SLOW, SLOW),
    drip_head: (SLOW, SLOW),
    drip_continue: (SLOW, SLOW),
    silent: (SLOW, SLOW),
    says_longer: (AWAY, AWAY),
    says_shorter: ("the envelope is not JSON", "it was cut short"),
    interrupted: (AWAY, AWAY),
    hangs_up: (AWAY, AWAY),
    no_http: (AWAY, AWAY),
    bomb: (LONG, LONG),
    bomb_of_brackets: ("the envelope is not JSON", LONG),
    html: ("sends text/html, wanted application/json", "it was cut short"),
    redirect: ("302, go to http://elsewhere/, which is not followed",) * 2,
    failed: ("answers 500 without saying why",) * 2,
    failed_at_length: ("answers 500 without saying why",) * 2,
    full: ("answers 503 Trouble: full (try again in 7 s)",) * 2,
    clears_the_screen: ("answers 404 Trouble:  [2Jgone",) * 2,
    chatty: ("answers 401 Trouble: xxx",) * 2,
}


@pytest.mark.parametrize("misbehaviour", HOSTILE, ids=lambda each: each.__name__)
@pytest.mark.parametrize("at", ["statement", "pack"])
def test_a_hostile_answer(fleet: Fleet, device: Device, second: Pack, misbehaviour: Misbehaviour, at: str) -> None:
    before = device.files()
    fleet.offer(second, about(second, 6))
    fleet.instead[CHANNEL if at == "statement" else f"/v1/packs/{second.pack_id}"] = misbehaviour
    began = time.monotonic()
    done = device.pull("--timeout", "0.5", "--token", TOKEN)
    assert time.monotonic() - began < 40  # the drips last a minute
    fails(
        done,
        HOSTILE[misbehaviour][at == "pack"].format(most=8192 if at == "statement" else second.size),
        f"; {device.pack} stays as it was",
    )
    assert len(done.err) < 700
    assert device.files() == before
    fleet.instead.clear()
    assert device.pull("--json").json["changed"]  # and the next time all is well


def test_an_interrupted_user(fleet: Fleet, device: Device, second: Pack) -> None:
    before = device.files()
    fleet.offer(second, about(second, 6))
    fleet.instead[f"/v1/packs/{second.pack_id}"] = drip_body
    words = ("pull", "flowers", "--server", fleet.url, "--trust", device.trust, "--out", device.pack)
    running = subprocess.Popen(
        [sys.executable, "-m", "device_agent", *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background would inherit "ignore"
    )
    while len(fleet.seen) < 2:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    assert running.communicate(timeout=30)[1].strip() == "interrupted"
    assert running.returncode == 130
    assert device.files() == before


def test_a_server_that_is_away(fleet: Fleet, device: Device, empty: Device) -> None:
    before = device.files()
    fleet.http.server_close()
    fails(device.pull(), AWAY, "is it up, and the address right?", f"{device.pack} stays as it was")
    assert device.files() == before
    done = command("pull", "flowers", "--server", fleet.url, "--trust", device.trust, "--out", device.folder / "new.qpk")
    fails(done, AWAY, "nothing was written")
    assert device.files() == before


def test_a_classification_does_not_notice(
    edge_qprompt_command: Command, fleet: Fleet, empty: Device, learned: Learned, second: Pack
) -> None:
    fleet.offer(Pack.open(learned.path), about(Pack.open(learned.path), 5))
    assert empty.pull().code == 0
    classify = ("classify", empty.pack, DEMO / "test" / "bag" / "3.png", "--json")
    before = edge_qprompt_command(*classify).json
    fleet.offer(second, about(second, 6), OTHER_KEY)
    fails(edge_qprompt_command("pull", "flowers", "--server", fleet.url, "--trust", empty.trust, "--out", empty.pack))
    assert edge_qprompt_command(*classify).json == before


@pytest.mark.parametrize(
    "server",
    [
        "",
        "nonsense",
        "http://",
        "ftp://example.org",
        "http://[::1",
        "http://a..b",
        f"http://{'x' * 70}.org",
        "http://h:99999",
        "http://a b",
    ],
)
def test_addresses_that_are_none(device: Device, server: str) -> None:
    before = device.files()
    done = command("pull", "flowers", "--server", server, "--trust", device.trust, "--out", device.pack)
    fails(done, f"{device.pack} stays as it was")
    assert ("wanted an address like https://packs.example.org" in done.err) or ("cannot get an answer from" in done.err)
    assert device.files() == before


@pytest.mark.parametrize("token", [f"{TOKEN}\r\nX: y", f"{TOKEN} ", f"{TOKEN}é"])
def test_a_token_that_is_none_is_not_shown(fleet: Fleet, device: Device, token: str) -> None:
    fails(device.pull("--token", token), "the token holds characters", "it is not shown here")
    assert fleet.seen == []


def test_passwords_in_an_address_are_not_shown(fleet: Fleet, device: Device) -> None:
    fleet.instead[CHANNEL] = hangs_up
    for server in (fleet.url.replace("//", "//me:hidden@"), "me:hidden@example.org"):
        done = command("pull", "flowers", "--server", server, "--trust", device.trust, "--out", device.pack)
        fails(done)
        assert "hidden" not in done.err


def test_pull_needs_its_folder_and_its_key(device: Device) -> None:
    fails(device.pull("--out", device.folder / "no" / "a.qpk"), "of --out does not exist: create it first")
    fails(device.pull("--trust", device.pack), "is not an Ed25519 public key in PEM")
    fails(device.pull("--trust", device.folder / "gone.pub"), "cannot read the key")
    fails(device.pull("--backbone", "ViT-B-16"), "no backbone 'ViT-B-16'")
    done = device.pull(task="Flowers")
    assert (done.code, "'Flowers' is no name" in done.err) == (2, True)
