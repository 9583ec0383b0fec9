"""Knowledge questions: balanced, with a known chance, and held out from training conversations."""

from collections import Counter

import pytest

from core.rng import named_rng
from data_prep.embedded.concepts import load_catalogue
from data_prep.embedded.planning.conversations import make_chat, make_listing
from data_prep.embedded.planning.knowledge import (
    KnowledgePlanner,
    KnowledgeType,
    held_out,
    question_key,
)
from data_prep.embedded.planning.questions import Asker
from data_prep.embedded.planning.scenes import SceneMaker
from data_prep.embedded.wordings import QuestionKind, load_languages
from tests.unit.data_prep.embedded.test_embedded_recipe import FakePackages

PER_TYPE = 48


@pytest.fixture(scope="module")
def asker(tmp_path_factory):
    packages = FakePackages(tmp_path_factory.mktemp("packages"))
    return Asker(load_catalogue(packages, load_languages(["en", "eu"]), 60))


@pytest.fixture(scope="module")
def questions(asker):
    return KnowledgePlanner(asker, 0).questions(PER_TYPE)


def asked(questions, kind):
    return [question for question in questions if question.type is kind]


def test_every_type_is_balanced(questions):
    assert Counter(question.type for question in questions) == dict.fromkeys(KnowledgeType, 48)
    numbers = Counter(q.chat.questions[0].answer for q in asked(questions, KnowledgeType.NUMBER))
    assert numbers == {1: 12, 2: 12, 3: 12, 4: 12}
    yes_no = asked(questions, KnowledgeType.YES_NO)
    kinds = Counter((q.chat.questions[0].kind, q.chat.questions[0].answer) for q in yes_no)
    assert all(kinds[kind, 1] == kinds[kind, 0] for kind, _ in kinds)
    choices = [q.chat.questions[0] for q in asked(questions, KnowledgeType.CHOICE)]
    assert set(Counter(c.concepts.index(c.answer) for c in choices).values()) == {12}


def test_the_chance_is_that_of_a_guess_among_the_possible_answers(questions):
    for question in asked(questions, KnowledgeType.LISTING):
        assert question.chance == 1 / len(question.chat.scene.counts)
        assert question.chance < 1
    chances = {kind: {q.chance for q in asked(questions, kind)} for kind in KnowledgeType}
    assert chances[KnowledgeType.CHOICE] == chances[KnowledgeType.NUMBER] == {0.25}
    assert chances[KnowledgeType.YES_NO] == {0.5}
    assert chances[KnowledgeType.OPEN] == {1 / 60, 1 / 15}


def test_a_name_that_is_asked_for_is_not_in_its_description(questions):
    for question in asked(questions, KnowledgeType.OPEN):
        assert question.chat.by_keywords == (question.chance == 1 / 60)


def test_training_conversations_contain_no_held_out_question(asker, questions):
    avoided = held_out(questions)
    maker = SceneMaker(asker, set(avoided.combinations))
    chats = [make_chat(asker, maker, named_rng(0, "corpus", number)) for number in range(400)]
    kept = [chat for one in chats if (chat := avoided.without(one))]
    keys = {question_key(chat, question) for chat in kept for question in chat.questions}
    assert not keys & avoided.keys
    assert not {c for chat in kept if chat.scene for c in chat.scene.combinations} & (
        avoided.combinations
    )
    num_questions = sum(len(chat.questions) for chat in chats)
    num_kept = sum(len(chat.questions) for chat in kept)
    assert 0.9 * num_questions < num_kept < num_questions


def test_a_listing_names_different_things_and_asks_for_their_places(asker):
    maker = SceneMaker(asker, set())
    kinds = Counter()
    for number in range(40):
        chat = make_listing(asker, maker, named_rng(0, "listing", number))
        assert len(chat.scene.counts) > 1
        places = dict(chat.scene.places())
        for question in chat.questions:
            kinds[question.kind] += 1
            if question.kind is QuestionKind.POSITION:
                assert question.answer == places[question.place]
    assert kinds[QuestionKind.POSITION] >= 2 * 40
    assert kinds[QuestionKind.NEIGHBOUR] >= 40
