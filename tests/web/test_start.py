"""A campaign started in the browser: the plan is the terminal's, the record too, and nothing is started twice."""

from __future__ import annotations

import json
import threading

import pytest
import yaml
from sqlalchemy import select

from rlback.__main__ import main
from rlback.ledger.tables import campaigns
from tests.conftest import changed
from tests.orchestration.fake_prefect import fake_prefect
from tests.web.lean import enter, people  # noqa: F401

PAIRS = [{"prompt": f"p{i}", "chosen": "yes", "rejected": "no", "topic": f"{'abcde'[i % 5]}_x"} for i in range(10)]


@pytest.fixture(autouse=True)
def away(monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


@pytest.fixture
def configs(people):  # noqa: F811
    """A world's, one on pairs, one that is no campaign, and a study's, which is not listed."""
    home = people.root / "configs"
    (home / "studies").mkdir(parents=True)
    tree = changed(name="fresh", policy="fresh")
    given = changed(
        name="given", source={"held_out": 2, "group_column": "topic", "group_until": "_"},
        labels={"annotators": "human"}, gate={"approver": "human"},
    )  # fmt: skip
    del given["source"]["world"]
    given["base"]["training"]["window"] = given["base"]["shape"]["max_positions"]
    (home / "world.yaml").write_text("# About <b>it</b>\n" + yaml.safe_dump(tree))
    (home / "pairs.yaml").write_text(yaml.safe_dump(given))
    (home / "bad.yaml").write_text(yaml.safe_dump({**tree, "roundz": 3}))
    (home / "studies" / "study.yaml").write_text("arms: []\n")
    people.data.mkdir(exist_ok=True)
    (people.data / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    (people.root / "elsewhere.jsonl").write_text(json.dumps(PAIRS[0]) + "\n")
    return people


def names(project) -> list[str]:
    return sorted(row.name for row in project.store.rows(select(campaigns.c.name)))


def test_configurations_are_listed_and_a_bad_one_says_why(configs, enter):  # noqa: F811
    """By file; what a world needs is nothing, what people's preferences need is a file of them."""
    oli = enter("oli")
    found = {c["config"]: c for c in oli.twin("/campaigns/new")["choices"]}
    assert sorted(found) == ["bad.yaml", "pairs.yaml", "world.yaml"]
    assert "roundz" in found["bad.yaml"]["error"]
    assert (found["world.yaml"]["needs"], found["pairs.yaml"]["needs"]) == ([], ["pairs"])
    page = oli.get("/campaigns/new", headers={"accept": "text/html"}).text
    assert "roundz" in page
    assert "About &lt;b&gt;it" in page


def test_the_plan_is_what_a_dry_run_prints(configs, enter, monkeypatch, capsys):  # noqa: F811
    """Line by line, with an input, an override and a seed; nothing is recorded by looking."""
    oli, before = enter("oli"), configs.store.event_count()
    asked = {"config": "pairs.yaml", "plan": "1", "pairs": "data/pairs.jsonl", "seed": "7", "set": "optimise.beta=0.5\nrounds=3"}
    answer = oli.get("/campaigns/new", params=asked, headers={"accept": "application/json"})
    plan = answer.json()["plan"]
    monkeypatch.chdir(configs.root)
    command = ["run", "configs/pairs.yaml", "--pairs", str(configs.data / "pairs.jsonl"), "--seed", "7"]
    assert main([*command, "--set", "optimise.beta=0.5", "--set", "rounds=3", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[:-1] == plan["lines"]
    assert plan["inputs"]["pairs"]["path"] == str(configs.data / "pairs.jsonl")
    assert (plan["settings"]["optimise"]["beta"], plan["seed"], plan["rounds"]) == (0.5, 7, 3)
    assert configs.store.event_count() == before


def test_sent_twice_at_once_it_is_one_campaign_by_its_starter(configs, enter):  # noqa: F811
    """Both answers name the same campaign; the event names the person, whom the four eyes then know."""
    oli = enter("oli")
    plan = oli.twin("/campaigns/new.json?config=world.yaml&plan=1")
    token = oli.csrf()
    body = {"config": "world.yaml", "digest": plan["plan"]["digest"], "key": plan["key"], "csrf": token}
    answers = []

    def send() -> None:
        headers = {"origin": "http://127.0.0.1:8700", "accept": "application/json"}
        answers.append(oli.post("/campaigns", data=body, headers=headers))

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [a.status_code for a in answers] == [200, 200], answers[0].text
    assert [a.json()["campaign"] for a in answers] == ["fresh", "fresh"]
    assert answers[0].json()["next"] == "rlback advance fresh"
    started = [e for e in configs.store.events("fresh") if e.kind == "campaign.started"]
    assert [(e.actor, e.actor_kind) for e in started] == [("oli", "human")]
    assert main(["--project", str(configs.root), "verify", "--quick"]) == 0
    other = oli.fill("/campaigns", {**body, "set": "rounds=5", "digest": ""})
    assert other.status_code == 409
    assert names(configs) == ["fresh", "people"]


def test_with_prefect_its_flow_run_starts(configs, enter, monkeypatch):  # noqa: F811
    """A second press asks for no second one; without a key a script starts a second campaign."""
    oli = enter("oli")
    with fake_prefect() as prefect:
        monkeypatch.setenv("PREFECT_API_URL", prefect.url)
        for key in ("k" * 8, "k" * 8, ""):
            answer = oli.fill("/campaigns", {"config": "world.yaml", "key": key})
            assert answer.status_code == 200, answer.text
            assert answer.json()["run"]
    assert [run["parameters"]["campaign"] for run in prefect.runs] == ["fresh", "fresh-2"]
    assert [e.kind for e in configs.store.events("fresh")] == ["campaign.started", "flow-run.started"]


def test_what_changed_since_the_plan_is_not_started(configs, enter):  # noqa: F811
    """A byte more in the input: 409, and nothing is recorded."""
    oli = enter("oli")
    asked = {"config": "pairs.yaml", "pairs": "data/pairs.jsonl"}
    plan = oli.get("/campaigns/new", params={**asked, "plan": 1}, headers={"accept": "application/json"}).json()["plan"]
    with (configs.data / "pairs.jsonl").open("a") as file:
        file.write(json.dumps(PAIRS[0]) + "\n")
    assert oli.fill("/campaigns", {**asked, "digest": plan["digest"]}).status_code == 409
    assert names(configs) == ["people"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"config": "../data.dvc"}, "no configuration"),
        ({"config": "bad.yaml"}, "roundz"),
        ({"config": "x" * 150}, "no configuration"),
        ({"config": "pairs.yaml"}, "file of preferences"),
        ({"config": "pairs.yaml", "pairs": "elsewhere.jsonl"}, "not in a directory"),
        ({"config": "pairs.yaml", "pairs": "/etc/no-such-file"}, "not in a directory"),
        ({"config": "pairs.yaml", "pairs": "data/link.jsonl"}, "not in a directory"),
        ({"config": "pairs.yaml", "pairs": "data/none.jsonl"}, "is not there"),
        ({"config": "pairs.yaml", "pairs": "data"}, "is a directory"),
        ({"config": "pairs.yaml", "pairs": "data/pipe"}, "no regular file"),
        ({"config": "world.yaml", "pairs": "data/pairs.jsonl"}, "runs in the world"),
        ({"config": "world.yaml", "set": "optimise.betta=1"}, "betta"),
        ({"config": "world.yaml", "set": "nonsense"}, "key=value"),
        ({"config": "world.yaml", "seed": "-1"}, "whole number"),
        ({"config": "world.yaml", "name": "Über"}, "no name for a campaign"),
        ({"config": "world.yaml", "name": "people"}, "already"),
        ({"config": "world.yaml", "set": "scores={command: [id]}"}, "names a program"),
        ({"config": "world.yaml", "set": "scores.function=x.py:f"}, "names a program"),
        ({"config": "world.yaml", "set": "base.model=/etc"}, "names a program"),
    ],
)
def test_what_cannot_be_started_says_why(configs, enter, fields, says):  # noqa: F811
    """The plan and the start refuse in the same words; a browser names neither programs nor files elsewhere."""
    import os

    (configs.data / "link.jsonl").symlink_to(configs.root / "elsewhere.jsonl")
    os.mkfifo(configs.data / "pipe")
    oli = enter("oli")
    looked = oli.get("/campaigns/new", params={**fields, "plan": "1"}, headers={"accept": "application/json"})
    answer = oli.fill("/campaigns", fields)
    assert (looked.status_code, answer.status_code) == (422, 422), (looked.text, answer.text)
    assert says in looked.json()["error"]["message"]
    assert says in answer.json()["error"]["message"]
    assert names(configs) == ["people"]


def test_directories_of_inputs_are_the_operators_to_name(configs, enter):  # noqa: F811
    """`inputs` in console.yaml; it is read when the console starts."""
    (configs.root / "more").mkdir()
    (configs.root / "elsewhere.jsonl").rename(configs.root / "more" / "elsewhere.jsonl")
    oli = enter("oli")
    asked = {"config": "pairs.yaml", "pairs": "more/elsewhere.jsonl", "set": "source.held_out=0"}
    assert oli.fill("/campaigns", asked).status_code == 422
    from rlback.web.settings import Settings

    oli.app.console.settings = Settings(inputs=("more",))
    answer = oli.fill("/campaigns", asked)
    assert answer.status_code == 200, answer.text
    assert answer.json()["inputs"]["pairs"]["path"] == str(configs.root / "more" / "elsewhere.jsonl")


def test_it_takes_the_permission_to_run(configs, enter):  # noqa: F811
    """Auditors and approvers do not start; a token without the scope does not either, one with it does."""
    for name in ("max", "eve"):
        browser = enter(name)
        assert browser.get("/campaigns/new", headers={"accept": "application/json"}).status_code == 403
        assert browser.fill("/campaigns", {"config": "world.yaml"}).status_code == 403
    oli = enter("oli")
    for scope, status in (("look", 403), ("run", 200)):
        token = oli.fill("/account/tokens", {"label": "s", "scopes": scope, "days": "1"}).json()["token"]
        headers = {"authorization": f"Bearer {token}", "accept": "application/json"}
        oli.cookies.clear()
        answer = oli.post("/campaigns", json={"config": "world.yaml", "set": ["rounds=1", "seed=3"]}, headers=headers)
        assert answer.status_code == status, answer.text
        oli.fill("/sign-in", {"name": "oli", "password": "correct horse battery"}, page="/sign-in")
    assert names(configs) == ["fresh", "people"]
