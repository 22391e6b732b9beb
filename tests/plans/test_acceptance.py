"""Who accepts, what is said about it, and the rule that ranks by a judge."""

import json
import math
from pathlib import Path

import pytest

from higfa_core.plans.acceptance import NONE, OWN_GUIDE, OWN_MINIATURE, SAME, acceptance, with_judge
from higfa_core.plans.rules import Rules
from higfa_core.plans.workflow import EXPORT, check_workflow, digest, find_node

MAKING = ("controlnet_augment", "miniature_augment")  # those that make a dataset
WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows/api"
TEMPLATES = {name: json.loads((WORKFLOWS / f"{name}.json").read_text("utf-8")) for name in MAKING}
GUIDE, JUDGE = Rules(min_confidence=0.5), Rules(min_judge_confidence=0.5)


def unjudged(name):
    """A template as it was before it had a judge."""
    graph = TEMPLATES[name]
    export = find_node(graph, EXPORT)
    inputs = {k: v for k, v in graph[export]["inputs"].items() if k != "judge"}
    return {**graph, export: {**graph[export], "inputs": inputs}}


GRAPH = unjudged("controlnet_augment")


@pytest.mark.parametrize("name", MAKING)
def test_the_templates_accept_by_a_judge(name):
    export = TEMPLATES[name][find_node(TEMPLATES[name], EXPORT)]["inputs"]
    assert Rules.pick(export).given() == {"min_judge_confidence": 0.5}
    assert acceptance(TEMPLATES[name], Rules.pick(export)) == ""
    assert acceptance(unjudged(name), Rules.pick(export)) == NONE
    told = OWN_MINIATURE if name.startswith("miniature") else OWN_GUIDE
    assert acceptance(TEMPLATES[name], GUIDE) == acceptance(unjudged(name), GUIDE) == told
    assert "no evidence after guidance" in told


def test_only_the_guide_that_steers_is_told_that_its_word_is_worth_nothing():
    assert acceptance(GRAPH, GUIDE) == acceptance(GRAPH, Rules(require_top1=True)) == OWN_GUIDE
    assert acceptance(GRAPH, Rules()) == acceptance(GRAPH, Rules(min_sharpness=3)) == ""
    assert acceptance(GRAPH, JUDGE) == NONE
    judged = with_judge(GRAPH, "judge.safetensors")
    assert acceptance(judged, JUDGE) == acceptance(judged, Rules(keep_judge_share=0.5)) == ""
    assert acceptance(judged, GUIDE) == OWN_GUIDE  # there, but not asked
    export = find_node(GRAPH, EXPORT)
    inputs = {**GRAPH[export]["inputs"], "judge": GRAPH[export]["inputs"]["classifier"]}
    assert acceptance({**GRAPH, export: {**GRAPH[export], "inputs": inputs}}, JUDGE) == SAME
    # A classifier that only looks at stock images is no guide.
    sampler = next(node for node, about in GRAPH.items() if about["class_type"] == "HiGFA_KSampler")
    stock = {k: v for k, v in GRAPH[sampler]["inputs"].items() if k != "classifier"}
    assert acceptance({**GRAPH, sampler: {"class_type": "KSampler", "inputs": stock}}, GUIDE) == ""


@pytest.mark.parametrize("name", MAKING)
def test_a_judge_changes_no_key(name):
    graph = unjudged(name)
    export = find_node(graph, EXPORT)
    judged = with_judge(with_judge(graph, "a.safetensors"), "b.safetensors")
    for one in (judged, TEMPLATES[name]):
        check_workflow(one)
        assert digest(one, export) == digest(graph, export)
    node, slot = judged[export]["inputs"]["judge"]
    assert judged[node]["inputs"]["classifier_name"] == "b.safetensors" and slot == 0
    assert "judge" not in graph[export]["inputs"] and find_node(judged, EXPORT) == export


def scores(*confidences):
    return [{"judge_confidence": p, "judge_rank": 1 if p > 0.5 else 3, "confidence": 1.0} for p in confidences]


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_a_share_of_a_class_never_empties_it_and_keeps_the_best(share, count):
    images = scores(*(((i * 7) % count) / 1000 for i in range(count)))
    verdicts = Rules(keep_judge_share=share).judge_class(images)
    kept = [image["judge_confidence"] for image, verdict in zip(images, verdicts) if verdict.accepted]
    lost = [image["judge_confidence"] for image, verdict in zip(images, verdicts) if not verdict.accepted]
    assert len(kept) == math.ceil(share * count) >= 1
    assert not lost or min(kept) >= max(lost)


def test_the_share_is_of_what_the_other_rules_leave():
    rules = Rules(keep_judge_share=0.5, require_judge_top1=True)
    images = [{**image, "judge_seen": "x"} for image in scores(0.9, 0.1, 0.8, 0.7, 0.2, 0.6)]
    verdicts = rules.judge_class(images)
    assert [verdict.accepted for verdict in verdicts] == [True, False, True, False, False, False]
    assert verdicts[3].reason == "the judge prefers others: 50% of the class stay"
    assert "sees" in verdicts[1].reason
    with pytest.raises(ValueError, match="need judge_confidence"):
        rules.judge_class([{"judge_rank": 1}])
    by_hand = [{**image, "human": i == 2} if i > 1 else image for i, image in enumerate(scores(0.2, 0.1, 0.0, 0.9))]
    verdicts = Rules(keep_judge_share=0.5).judge_class(by_hand)
    assert [verdict.accepted for verdict in verdicts] == [True, False, True, False]
    same = Rules(keep_judge_share=0.5).judge_class(scores(0.4, 0.4, 0.4))
    assert [verdict.accepted for verdict in same] == [True, True, False]


def test_plans_without_the_new_rule_keep_their_bytes():
    assert "keep_judge_share" not in Rules(min_confidence=0.5).stored()
    assert Rules.recorded(Rules(min_confidence=0.5).stored()) == Rules(min_confidence=0.5)
    on = Rules(keep_judge_share=0.5)
    assert on.stored()["keep_judge_share"] == 0.5 and Rules.recorded(on.stored()) == on
