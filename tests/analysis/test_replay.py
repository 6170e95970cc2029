"""The page of a recorded episode: its numbers decoded again, what it refuses, and how a browser plays it."""

from __future__ import annotations

import base64
import json
import re
import shutil
import struct
import subprocess
import zlib
from dataclasses import replace
from html import escape

import numpy as np
import pytest

from analysis.replay_cases import episode
from durotaxis import cli
from durotaxis.analysis import replay
from durotaxis.analysis.replay import agent_name, write_replay
from durotaxis.env.render import canvas
from durotaxis.records import CONFIG, FIGURES, RecordError, write_episodes

FORMATS = {"f4": "f", "i4": "i", "u2": "H", "u1": "B"}


def unpacked(text):
    """(description, [{name: numbers} per episode]) of a page, read with the standard library alone."""
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])
    packed = re.search(r'<script type="text/plain" id="packed">(.*?)</script>', text, re.S)[1]
    content = zlib.decompress(base64.b64decode(packed))
    tables = []
    for described in data["episodes"]:
        table = {}
        for name, at in described["columns"].items():
            numbers = struct.unpack_from(f"<{at['length']}{FORMATS[at['type']]}", content, at["start"])
            if "low" in at:
                numbers = [at["low"] + (at["high"] - at["low"]) * n / 65535 for n in numbers]
            table[name] = numbers
        tables.append(table)
    return data, tables


def written(path, *episodes, **options):
    return write_replay(episodes, path / "replay.html", **options).read_text("utf-8")


@pytest.mark.parametrize("rows", ["node", "colony"])
def test_the_page_holds_the_records(tmp_path, rows):
    made = episode(rows=rows, direction=2.2)
    data, (table,) = unpacked(written(tmp_path, made))
    assert data["episodes"][0]["terms"] == made.terms
    spawned = 0
    for t, row in enumerate(made.rows):
        first, end = table["begin"][t], table["begin"][t + 1]
        assert list(table["id"][first:end]) == row["node_ids"]
        assert list(table["parent"][first:end]) == row["parents"]
        assert [t - birth for birth in table["birth"][first:end]] == row["ages"]
        places = zip(table["x"][first:end], table["y"][first:end], strict=True)
        assert np.array(list(places)) == pytest.approx(np.array(row["nodes"]), rel=1e-6)
        assert table["stiffness"][first:end] == pytest.approx(row["stiffness"], rel=1e-6)
        assert [state >= 4 for state in table["state"][first:end]] == row["marked"]
        assert [state % 4 for state in table["state"][first:end]] == (
            row["kinds"] or [3] * len(row["node_ids"])
        )
        if row["kinds"] is None:
            continue
        for values in filter(None, row["parameters"]):
            names = ("max_step", "half_saturation", "noise", "angle")
            assert [table[name][spawned] for name in names] == pytest.approx(values, abs=2e-4)
            spawned += 1
        where = slice(first, end) if rows == "node" else slice(t, t + 1)
        weights = np.array([table[f"attention/{k}"][where] for k in range(2)]).T
        assert weights == pytest.approx(np.array(row["attention"]), abs=1e-5)
        for name in ("value", "entropy", "reward", *(f"term/{term}" for term in made.terms)):
            assert table[name][t] == pytest.approx(row[name], rel=1e-6)
    assert spawned == len(table["angle"])
    assert table["field"] == pytest.approx(np.ravel(made.info.field), rel=1e-6)
    assert data["episodes"][0]["pixels"] == [15, 30]


def test_a_long_episode_stays_small(tmp_path):
    """1,000 steps of 60 nodes with an attention of their own each, over the three models of the guide."""
    long = episode(steps=1000, nodes=60, ptms=("a", "b", "c"))
    assert len(written(tmp_path, long)) < 1_200_000  # two of them fit into 5 MB, too


def test_the_page_stands_alone_and_trusts_no_name(tmp_path):
    hostile = "</script><script>alert(1)</script>"
    text = written(tmp_path, episode(ptms=(hostile, "b"), scenario=hostile, policy=hostile))
    assert "<script>alert" not in text
    visible = re.sub(r'id="packed">.*?</script>', "", text, flags=re.S)
    addresses = set(re.findall(r"\w+://[^\s\"'`]*", visible)) - {"http://www.w3.org/2000/svg"}
    assert addresses == set()  # that one is the name of a language, which is not fetched
    assert not re.search(
        r"@import|url\(|<link(?! rel=\"icon\" href=\"data:,\")|\bsrc=|import\(|fetch\(", visible
    )


def test_colours_are_those_of_the_films(tmp_path):
    colours = unpacked(written(tmp_path, episode()))[0]["colours"]
    plain = {"ink": canvas.INK, "paper": canvas.PAPER, "mark": canvas.MARK, "old": canvas.OLD}
    assert {name: tuple(colours[name]) for name in plain} == plain
    assert list(map(tuple, colours["kinds"])) == [canvas.REST, canvas.SPAWN, canvas.DELETE]
    assert tuple(map(tuple, colours["categories"])) == canvas.CATEGORIES
    ground = np.array(colours["ground"])
    film = canvas.ground_colours(np.linspace(0, 1, len(ground)))
    assert np.abs(ground - film).max() <= 3  # of 255; films have fewer colours


def test_two_agents_must_have_played_in_the_same_world(tmp_path):
    first = episode()
    for change, said in (
        ({"seed": 8}, "seed 2000000 and seed 8"),
        ({"scenario": "moat"}, "scenario quick and scenario moat"),
        ({"field": [[1.0]]}, "worlds differ in field"),
    ):
        other = _changed(first, **change)
        with pytest.raises(RecordError, match=said):
            written(tmp_path, first, other)
        assert not list(tmp_path.iterdir())
        assert "beside" in written(tmp_path, first, other, allow_different=True)
        (tmp_path / "replay.html").unlink()


def test_lists_and_tuples_are_the_same_world(tmp_path):
    first = episode()
    second = _changed(first, size=list(first.info.size), policy="idle")
    assert "beside idle</h1>" in written(tmp_path, first, second)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"attention": [[0.5, 0.5]]}, r"step 3: attention of shape \[1, 2\], expected \[9, 2\]"),
        ({"attention": None}, "step 3: attention"),
        ({"parameters": [None] * 9}, "step 3: a node spawned without parameters"),
    ],
)
def test_records_that_do_not_fit_together_are_refused(tmp_path, change, said):
    made = episode()
    made.steps[3].update(change)
    with pytest.raises(RecordError, match=said):
        written(tmp_path, made)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_said(tmp_path):
    with pytest.raises(RecordError, match=r"\.html"):
        write_replay([episode()], tmp_path / "replay.gif")
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="cannot write"):
        write_replay([episode()], tmp_path / "file" / "replay.html")
    with pytest.raises(RecordError, match="one episode or two"):
        write_replay([], tmp_path / "replay.html")
    with pytest.raises(RecordError, match="no step"):
        write_replay([replace(episode(), steps=[])], tmp_path / "replay.html")


def test_agents_are_called_by_their_run():
    info = episode().info
    assert agent_name(info) == "<made up>"
    assert agent_name(replace(info, policy="delete-left")) == "delete-left"
    assert agent_name(replace(info, policy="agents/last.pt")) == "agents/last.pt"


# In a browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

LISTEN = """<script>
window.problems = [];
addEventListener("error", event => problems.push(event.message));
addEventListener("unhandledrejection", event => problems.push(String(event.reason)));
for (const name of ["error", "warn"]) console[name] = (...words) => problems.push(words.join(" "));
</script>"""

TOOLS = """
const find = selector => document.querySelector(selector);
const text = selector => find(selector).textContent.replace(/\\s+/g, " ").trim();
const all = selector => [...document.querySelectorAll(selector)].map(element => element.textContent);
const click = selector => find(selector).click();
const press = (key, more = {}) => document.activeElement.dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...more }));
const wait = seconds => new Promise(done => setTimeout(done, 1000 * seconds));
const until = async condition => { while (!condition()) await wait(0.01); };
const step = () => Number(/\\d+/.exec(text("#clock"))[0]);
const table = (agent = 0) => Object.fromEntries([...document.querySelectorAll(`#agent-${agent} .facts-of dl div`)]
  .map(line => [line.children[0].textContent, line.children[1].textContent]));
/** A pointer event at a place in µm. */
const at = (name, x, y) => {
  const box = find(".stage").getBoundingClientRect(), [wide, high] = SIZE;
  const where = { clientX: box.left + x / wide * box.width, clientY: box.top + (1 - y / high) * box.height };
  const kind = name === "click" ? MouseEvent : PointerEvent;
  find(".stage").dispatchEvent(new kind(name, { bubbles: true, pointerType: "mouse", ...where }));
};
/** Whether the picture has so many pixels of a colour. */
const pixels = colour => {
  const canvas = find("canvas[role=img]");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let count = 0;
  for (let i = 0; i < data.length; i += 4) count += colour.every((value, k) => data[i + k] === value);
  return count;
};
const sideways = () => document.documentElement.scrollWidth - innerWidth;
const found = {};
await until(() => document.documentElement.dataset.ready !== undefined);
"""
REPORT = """
found.problems = window.problems;
found.loaded = performance.getEntriesByType("resource").filter(entry => !entry.name.startsWith("data:")).length;
parent.document.getElementById("NAME").textContent = JSON.stringify(found);
"""


def browse(folder, frames, *flags):
    """What scripts found out on pages in a browser, each page a frame of its own.

    Args:
        frames: name -> (page, width in pixels, script that fills `found`, substrate's size).

    Returns:
        name -> found.
    """
    parts = []
    for name, (text, width, script, size) in frames.items():
        listening = text.replace("<head>", "<head>" + LISTEN, 1)
        drive = TOOLS.replace("SIZE", json.dumps(size)) + script + REPORT.replace("NAME", name)
        driven = listening.replace("</body>", f'<script type="module">{drive}</script></body>')
        parts.append(
            f'<iframe width="{width}" height="900" srcdoc="{escape(driven)}"></iframe><pre id="{name}"></pre>'
        )
    page = folder / "probe.html"
    page.write_text(f"<!DOCTYPE html><meta charset='utf-8'><body>{''.join(parts)}</body>", "utf-8")
    command = [
        CHROMIUM,
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--virtual-time-budget=20000", "--window-size=1300,1000", *flags),
        *(f"--user-data-dir={folder / 'profile'}", "--dump-dom", page.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    results = {}
    for name in frames:
        said = re.search(rf'<pre id="{name}">(.*?)</pre>', done.stdout, re.S)[1]
        assert said, f"{name}: the script did not come to its end\n{done.stderr[-2000:]}"
        results[name] = json.loads(said.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
        assert results[name]["problems"] == []
        assert results[name]["loaded"] == 0
    return results


DESK = """
click("#forward"); click("#forward"); found.forward = step();
click("#back"); found.back = step();
click("#last"); found.last = [step(), text(".state")];
click("#first"); found.first = step();
find("#scrub").value = 5; find("#scrub").dispatchEvent(new Event("input")); found.scrub = step();
find("#scrub").focus();
press("ArrowRight"); found.right = step();
press("ArrowLeft"); press("ArrowLeft"); found.left = step();
press("End"); found.end = [step(), find("#scrub").getAttribute("aria-valuetext")];
press("Home"); found.home = step();
press("ArrowRight", { shiftKey: true }); found.far = step();
found.speeds = [find("#speed").value];
for (const key of ["+", "+", "-", "-", "-", "-"]) { press(key); found.speeds.push(find("#speed").value); }
press("Home"); find("#speed").value = "20";
press(" "); found.playing = find("#play").getAttribute("aria-label");
await until(() => step() > 1); press(" ");
found.paused = [find("#play").getAttribute("aria-label"), text("#said")];
const stopped = step(); await wait(0.3); found.stays = [stopped, step()];
click("#play"); await until(() => step() === 12); found.played = find("#play").getAttribute("aria-label");
click("#play"); found.again = step(); click("#play");
find("#play").focus(); press(" "); found.once = find("#play").getAttribute("aria-label");
document.activeElement.blur();

click("#first");
found.blue = pixels([0, 114, 178]); found.ring = pixels([190, 30, 130]); found.cross = pixels([213, 94, 0]);
press("c"); found.byAge = [find("#colour").value, pixels([0, 114, 178])]; press("c"); press("c");
found.colourings = [find("#colour").value, all("#colour option")];
for (const _ of [1, 2]) press("c");
press("h"); found.hull = find("#hull").checked; press("h");
press("z"); found.closeUp = find("#closeUp").checked; press("z");
found.colony = table();

at("pointermove", ...PLACE); found.pointed = [text("h3"), table(), all(".weight output")];
find(".stage").dispatchEvent(new PointerEvent("pointerleave")); found.left_alone = text("h3");
at("click", ...PLACE); click("#forward"); click("#forward"); found.held = [text("h3"), table()];
for (let n = 0; n < 9; n++) click("#forward"); found.dead = [text("h3"), table()];
click("button.link"); found.return = step();
press("Escape"); found.released = text("h3");
press("n"); found.next = [text("h3"), text("#said")]; press("p"); found.previous = text("h3");
while (!find("button.link")) press("n");
found.child = table().parent; click("button.link"); found.parent = text("h3").toLowerCase();

const box = document.querySelectorAll(".plot")[1].getBoundingClientRect();
const down = new PointerEvent("pointerdown", { clientX: box.left + box.width / 3, pointerId: 1, bubbles: true });
const plot = document.querySelectorAll(".plot")[1]; plot.setPointerCapture = () => 0; plot.dispatchEvent(down);
found.jump = step();
found.panels = all(".panel h3");
found.curves = document.querySelectorAll(".broad .plot path").length;
click(".switches input"); found.fewer = document.querySelectorAll(".broad .plot path").length;
found.rewards = all(".switches output");
find(".head select").value = "each"; find(".head select").dispatchEvent(new Event("change"));
found.each = all(".switches output");
location.hash = "#step=3"; await until(() => step() === 3);
found.sideways = sideways();
found.unnamed = [...document.querySelectorAll("button, input, select, canvas[role=img]")].filter(
  e => !(e.getAttribute("aria-label") || e.labels?.[0]?.textContent.trim() || e.textContent.trim())).length;
"""

PHONE = """
click("summary"); click("#agent-0 .stage"); press("n"); found.sideways = sideways();
found.wide = [...document.querySelectorAll("body *")].filter(
  e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".unseen") && e.tagName !== "path").length;
click("#last"); found.end = [step(), text("#agent-0 .state"), text("#agent-1 .state")];
find("#agent-1 .stage").focus(); press("n"); found.second = [text("#agent-0 h3"), text("#agent-1 h3")];
found.attention = [all("#agent-0 .weight span"), all("#agent-1 .weight span")];
found.panels = all(".panel h3");
found.rewards = all(".switches li:first-child output span");
"""
PLAIN = """
found.words = document.querySelector("main").textContent.toLowerCase().includes("attention");
found.options = all("#colour option"); found.panels = all(".panel h3"); found.title = text("h1");
"""
CROWD = (
    "found.state = text('.state'); press('n'); found.node = text('h3'); found.ring = pixels([190, 30, 130]);"
)
CALM = """
found.speed = find("#speed").value; found.paper = getComputedStyle(document.body).backgroundColor;
"""


@pytest.fixture(scope="module")
def browsed(tmp_path_factory):
    """Episodes, and what scripts found on their pages."""
    if CHROMIUM is None:
        pytest.skip("no chromium found")
    folder = tmp_path_factory.mktemp("replay")
    long, short = episode(steps=12), episode(steps=8, scripted=True)
    row = long.steps[0]
    far = {
        n: min(
            np.hypot(*np.subtract(row["nodes"][n], other)) for m, other in enumerate(row["nodes"]) if m != n
        )
        for n in range(2, 9)
    }
    node = max((n for n in far if row["kinds"][n] == 1), key=far.get)
    crowd = episode(steps=2, nodes=replay.MANY_NODES + 1, scripted=True)
    size = long.info.size
    frames = {
        "desk": (written(folder, long), 1200, DESK.replace("PLACE", json.dumps(row["nodes"][node])), size),
        "phone": (written(folder, long, short), 390, PHONE, size),
        "plain": (written(folder, short), 700, PLAIN, size),
        "crowd": (written(folder, crowd), 700, CROWD, size),
    }
    return long, short, node, browse(folder, frames)


def test_buttons_and_keys_move_the_clock(browsed):
    found = browsed[3]["desk"]
    assert (found["forward"], found["back"], found["first"], found["scrub"]) == (2, 1, 0, 5)
    assert found["last"] == [12, "ended at step 12: max steps · 9 nodes"]
    assert (found["right"], found["left"], found["home"], found["far"]) == (6, 4, 0, 10)
    assert found["end"] == [12, "step 12 of 12, 2.0 h"]
    assert found["speeds"] == ["1", "2", "5", "2", "1", "1", "1"]


def test_it_plays_pauses_and_stops_at_the_end(browsed):
    found = browsed[3]["desk"]
    assert found["playing"] == "pause"
    stopped, later = found["stays"]
    assert 2 <= stopped < 12
    assert later == stopped
    assert found["paused"] == ["play", f"paused at step {stopped}"]
    assert found["played"] == "play"
    assert found["again"] == 0
    assert found["once"] == "play"  # the focused button takes the space key itself


def test_the_picture_and_the_numbers_are_those_of_the_records(browsed):
    long, _, node, results = browsed
    found, row = results["desk"], long.steps[0]
    assert min(found["blue"], found["ring"], found["cross"]) > 5
    assert found["byAge"] == ["age", 0]
    assert found["colourings"] == [
        "attention: resnet",
        ["action", "age", "stiffness", "attention: resnet", "attention: gnn"],
    ]
    assert found["hull"] is found["closeUp"] is True
    colony = found["colony"]
    assert [colony[name] for name in ("nodes", "rest", "spawn", "delete", "marked", "trees")] == [
        *("9", str(row["kinds"].count(0)), str(row["kinds"].count(1)), "1", "1", "1")
    ]
    assert float(colony["mean stiffness"].removesuffix(" kPa")) == pytest.approx(
        np.mean(row["stiffness"]), abs=0.006
    )
    front = max(x for x, _ in row["nodes"])
    assert colony["front"] == f"{front:.1f} of 180 µm"
    title, numbers, weights = found["pointed"]
    step, half, noise, angle = row["parameters"][node]
    signed = f"{angle:.2f} rad, {np.degrees(angle):.0f}°".replace("-", "−")
    assert title == f"Node {row['node_ids'][node]}"
    assert numbers == {
        "parent": f"node {row['node_ids'][node - 1]}",
        "children": "1" if node < 8 else "0",
        "age": "0 steps, 0.0 h",
        "place": "{:.1f}, {:.1f} µm".format(*row["nodes"][node]),
        "stiffness": f"{row['stiffness'][node]:.2f} kPa",
        "marked": "no",
        "action": "spawn",
        "max step": f"{step:.2f} µm",
        "half saturation": f"{half:.2f} kPa",
        "noise": f"{noise:.3f}",
        "angle": signed,
    }
    assert list(map(float, weights)) == pytest.approx(row["attention"][node], abs=6e-4)
    assert found["left_alone"] == "Colony"


def test_a_held_node_is_followed_by_its_id(browsed):
    long, _, node, results = browsed
    found = results["desk"]
    title, numbers = found["held"]
    assert title == f"Node {node}"
    assert numbers["age"] == "2 steps, 0.3 h"
    assert numbers["place"] == "{:.1f}, {:.1f} µm".format(*long.steps[0]["nodes"][node])
    last = max(row["step"] for row in long.rows if node in row["node_ids"])
    assert found["dead"] == [f"Node {node}", {"died": f"after step {last}", "go to": f"step {last}"}]
    assert found["return"] == last
    assert found["released"] == "Colony"
    first = min(long.rows[last]["node_ids"])
    assert found["next"][0] == f"Node {first}"
    assert found["next"][1].startswith(f"node {first}, ")
    assert found["previous"] == f"Node {max(long.rows[last]['node_ids'])}"
    assert found["child"] == found["parent"]


def test_curves_jump_and_can_be_switched(browsed):
    long, _, _, results = browsed
    found = results["desk"]
    assert found["jump"] == 4
    assert found["panels"] == ["reward", "attention", "nodes", "value", "entropy (nat per node)"]
    assert found["curves"] == 4  # the reward and three terms that are not 0 throughout
    assert found["fewer"] == 3
    sums = [float(said.replace("−", "-")) for said in found["rewards"]]
    assert sums[0] == pytest.approx(sum(row["reward"] for row in long.steps[:4]), abs=6e-4)
    each = [float(said.replace("−", "-")) for said in found["each"]]
    assert each[0] == pytest.approx(long.steps[4]["reward"], abs=6e-4)
    assert sorted(each[1:]) == pytest.approx(
        sorted(long.steps[4][f"term/{name}"] for name in long.terms), abs=6e-4
    )
    assert found["sideways"] <= 0
    assert found["unnamed"] == 0


def test_a_phone_shows_two_agents_without_sideways_scrolling(browsed):
    long, short, _, results = browsed
    found = results["phone"]
    assert found["sideways"] <= 0
    assert found["wide"] == 0
    assert found["end"] == [
        12,
        "ended at step 12: max steps · 9 nodes",
        "ended at step 8: max steps · 9 nodes",
    ]
    assert found["second"][1] == f"Node {short.last['node_ids'][0]}"
    assert found["attention"] == [["resnet", "gnn"], []]
    assert found["panels"][:3] == ["reward", "attention, <made up>", "nodes"]
    returns = [float(said.replace("−", "-")) for said in found["rewards"]]
    assert returns == pytest.approx([long.info.total_reward, short.info.total_reward], abs=6e-4)


def test_what_was_not_recorded_is_absent(browsed):
    found = browsed[3]["plain"]
    assert found["title"] == "delete-left"
    assert found["words"] is False
    assert found["options"] == ["action", "age", "stiffness"]
    assert found["panels"] == ["reward", "nodes"]


def test_many_nodes_are_drawn_simply_and_said_to_be(browsed):
    found = browsed[3]["crowd"]
    assert found["state"] == "801 nodes, drawn as plain dots"
    assert found["node"] == "Node 0"
    assert found["ring"] <= 9


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium found")
def test_a_dark_screen_and_a_wish_for_less_motion_are_respected(tmp_path):
    frames = {"calm": (written(tmp_path, episode(steps=300, nodes=3)), 700, CALM, (200, 100))}
    dark = "--blink-settings=preferredColorScheme=0"
    found = browse(tmp_path, frames, "--force-prefers-reduced-motion", dark)["calm"]
    assert found["speed"] == "2"
    assert found["paper"] == "rgb(20, 24, 29)"


# The command


@pytest.fixture
def call(capsys, tmp_path):
    """Run `durotaxis replay`; returns (exit code, what it printed without the directory)."""

    def call(*arguments):
        code = cli.run(["replay", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, (out + err).replace(str(tmp_path), "").strip()

    return call


def _changed(made, **info):
    return replace(made, info=replace(made.info, **info))


def run_directory(place, *episodes):
    place.mkdir()
    (place / CONFIG).touch()
    if episodes:
        write_episodes(place, episodes)
    return place


def test_the_command_writes_into_the_run(call, tmp_path):
    run = run_directory(tmp_path / "wsa", episode(), episode(seed=8, steps=3))
    other = run_directory(tmp_path / "idle", _changed(episode(steps=2), seed=5), episode(scripted=True))
    assert call(run) == (0, "written to /wsa/figures/replay-0.html (0.1 MB)")
    assert call(run, "--episode", 1, "--beside", other)[0] == 0
    text = (run / FIGURES / "replay-1-beside-idle.html").read_text("utf-8")
    assert [of["length"] for of in unpacked(text)[0]["episodes"]] == [3, 12]
    assert call(run, "--out", tmp_path / "mine.html") == (0, "written to /mine.html (0.1 MB)")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing"], "/missing is not a run directory: it has no config.yaml"),
        (
            ["empty"],
            "/empty has no recorded episodes; `durotaxis evaluate /empty` plays some and records them",
        ),
        (["wsa", "--episode", "4"], "/wsa has no episode 4; it has 0 to 0"),
        (["wsa", "--beside", "missing"], "/missing is not a run directory"),
        (["wsa", "--beside", "late"], "/late has no episode of seed 2000000 to show beside it, only of 5;"),
        (["wsa", "--beside", "moat"], "scenario quick and scenario moat"),
        (["wsa", "--out", "film.gif"], "/film.gif must end in .html"),
        (["wsa", "--out", "nowhere/page.html"], "lies in a directory that does not exist"),
    ],
)
def test_the_command_refuses_in_one_line_and_writes_nothing(call, tmp_path, arguments, said):
    run_directory(tmp_path / "empty")
    for name, change in (("wsa", {}), ("late", {"seed": 5}), ("moat", {"scenario": "moat"})):
        run_directory(tmp_path / name, _changed(episode(), **change))
    before = sorted(tmp_path.rglob("*"))
    code, text = call(*(a if a.startswith("-") or a.isdecimal() else tmp_path / a for a in arguments))
    assert code == 2
    assert len(text.splitlines()) == 1
    assert said in text
    assert sorted(tmp_path.rglob("*")) == before
