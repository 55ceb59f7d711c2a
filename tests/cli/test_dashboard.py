"""The dashboard has what runs log, and W&B gets it as it is printed."""

import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import wandb
from command_line import D2V, d2v  # noqa: F401  (a fixture)
from joint_data import write_media, write_overlay
from wandb.proto.wandb_internal_pb2 import Record

from d2v import metrics
from d2v.cli import main
from d2v.monitoring.dashboard.dashboard_sections import MEDIA, SECTIONS, media_keys, pattern

NAMES = {value for name, value in vars(metrics).items() if name.isupper() and isinstance(value, str)}
MEDIA_NAMES = set(metrics.media_titles())
SOMETIMES = {
    metrics.LOSS_SCALE,  # fp16, which CPUs have not
    metrics.SKIPPED_UPDATES,  # once one has been skipped
    metrics.TEST_LOSS,  # d2v test
    metrics.MFU,  # on a CPU in the third minute
}


def records(path: Path) -> Iterator[Record]:
    """What a run has written for W&B, in the layout of LevelDB's logs: pieces that no block of 32 KiB cuts."""
    content, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last piece
            yield Record.FromString(whole)
            whole = b""


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By their names, the last values that a joint run of three steps has logged to W&B."""
    folder = tmp_path_factory.mktemp("joint")
    overlay = write_overlay(folder / "tiny.yaml", write_media(folder / "data"))
    probe = "{class_path: d2v.training.callbacks.probe.ProbeCallback, init_args: {every_n_steps: 3, data: "
    probe += f"{{vision: null, speech: {folder / 'data' / 'sound'}}}}}}}"
    words = ["fit", "--config", "demo/joint.yaml", "--config", overlay, "--config", "loggers/wandb.yaml"]
    words += ["--run_name", "run", f"--trainer.callbacks+={probe}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(list(map(str, words))) == 0
        wandb.finish()
    (path,) = (folder / "runs" / "run" / "wandb").glob("offline-run-*/*.wandb")
    values: dict[str, Any] = {}
    for record in records(path):
        for item in record.history.item:
            name, *part = item.nested_key or [item.key]
            value = json.loads(item.value_json)
            values[name] = {**values.get(name, {}), part[0]: value} if part else value
    return values


def panels_of(name: str) -> list[str]:
    found = []
    for panels in SECTIONS.values():
        found += [panel.title for panel in panels if re.search(pattern(panel), name)]
    return found


def test_each_name_has_one_panel() -> None:
    for name in NAMES - MEDIA_NAMES | {metrics.per_second("images"), metrics.per_second("tokens")}:
        assert len(panels_of(name)) == 1, name
        assert panels_of(f"{name}/speech") == panels_of(name)
        assert panels_of(f"{name}_of_another") == []


def test_a_run_logs_what_the_dashboard_shows_and_nothing_else(logged: dict[str, Any]) -> None:
    media = {name for name in logged if name.startswith("media/")}
    numbers = {name for name in logged if not name.startswith(("media/", "_", "epoch", "trainer/"))}
    assert [name for name in numbers if len(panels_of(name)) != 1] == []
    without_encoder = {name.rpartition("/")[0] for name in logged}
    speeds = {metrics.per_second(unit) for unit in ("images", "audio_seconds", "tokens")}
    assert (NAMES | speeds) - SOMETIMES - numbers - without_encoder == set()
    assert media <= {key for metric in MEDIA_NAMES for key in media_keys(metric, MEDIA)}
    assert {name.rpartition("/")[2] for name in media} == {"vision", "speech", "text"}
    assert logged["media/tokens/text"]["_type"] == "html-file"
    assert logged["trainer/global_step"] == 2


class Server(BaseHTTPRequestHandler):
    """As much of W&B's as saving a view needs."""

    saved: list[dict[str, Any]] = []

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.path.endswith("/graphql"):
            return self.answer({})
        asked = json.loads(body)
        query, variables = asked["query"], asked.get("variables", {})
        person = {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
        answer: dict[str, Any] = {"viewer": person, "project": None}
        if variables.get("projectName", "d2v") == "d2v":
            answer["project"] = {"internalId": "7"}
        if "projects(" in query or "models(" in query:
            node = {"id": "7", "name": "d2v", "entityName": "me", "createdAt": "", "isBenchmark": False, "user": None}
            answer["models"] = {
                "edges": [{"cursor": "a", "node": node}],
                "pageInfo": {"endCursor": "a", "hasNextPage": False},
            }
        if "upsertView" in query:
            self.saved.append(variables)
            view = {"id": "v1", "name": variables["name"], "displayName": variables["displayName"]}
            view |= {"spec": variables["spec"], "type": variables["type"], "description": ""}
            view |= {"project": {"id": "7", "name": "d2v", "entityName": "me"}}
            answer["upsertView"] = {"view": view, "inserted": True}
        self.answer({"data": answer})

    def answer(self, content: object) -> None:
        written = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(written)))
        self.end_headers()
        self.wfile.write(written)


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What is sent to a server on this machine, where one is logged in."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Server.saved.clear()
    yield Server.saved
    server.shutdown()
    server.server_close()


def test_what_is_pushed_is_what_is_printed(d2v: D2V, saved: list[dict[str, Any]]) -> None:  # noqa: F811
    code, out, err = d2v("dashboard", "--push", "me/d2v", "--media", "vision", "touch")
    assert code == 0, err
    assert re.findall(r"http://\S+/me/d2v\S+", out), out
    report, view = sorted(saved, key=lambda one: one["type"] == "project-view")
    sections = json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]
    printed = d2v("dashboard", "--print")[1]
    for section in sections:
        assert f"\n{section['name']}\n" in "\n" + printed
        for panel in section["panels"]:
            assert panel["config"]["chartTitle"] in printed
    plots = [panel for section in sections[:-1] for panel in section["panels"]]
    assert [plot["config"]["metricRegex"] for plot in plots] == [pattern(p) for some in SECTIONS.values() for p in some]
    assert {plot["config"]["xAxis"] for plot in plots} == {"trainer/global_step"}
    keys = [key for panel in sections[-1]["panels"] for key in panel["config"]["mediaKeys"]]
    assert {"media/tokens", "media/masks/vision", "media/masks/touch"} <= set(keys)
    assert "Run Comparer" in report["spec"]
    assert metrics.KNN_TOP1 in report["spec"]


def test_what_cannot_be_pushed(d2v: D2V, saved: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    code, _, err = d2v("dashboard", "--push", "me/typo")
    assert (code, saved) == (2, [])
    assert "--push me/typo: W&B refuses it: " in err
    assert "'me/typo' not found" in err
    for wrong in ("d2v", "a/b/c", "/d2v"):
        code, _, err = d2v("dashboard", "--push", wrong)
        assert (code, f"--push {wrong}: write ENTITY/PROJECT" in err) == (2, True)
    monkeypatch.setitem(__import__("sys").modules, "wandb_workspaces", None)
    code, _, err = d2v("dashboard", "--push", "me/d2v")
    assert (code, "needs wandb_workspaces, which is not installed: pip install" in err) == (2, True)
    monkeypatch.setenv("NETRC", "no-netrc")
    monkeypatch.delenv("WANDB_API_KEY")
    code, _, err = d2v("dashboard", "--push", "me/d2v")
    assert (code, "--push me/d2v: not logged in; log in with `wandb login`" in err) == (2, True)
    assert d2v("dashboard", "--print")[0] == 0
    assert d2v("dashboard")[0] == 2
