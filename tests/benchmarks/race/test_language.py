"""The generated language: its habits are what its texts show, and the answers are new."""

import numpy as np
import pytest

from benchmarks.race import language

Z = 5.0
"""Few frequencies are looked at; a true one is beyond this once in a million draws."""


def test_words_follow_each_other_as_the_topic_prefers():
    topics, found = language.texts(4000, 16, np.random.default_rng(1))
    follow = language.habits()
    taken = (follow[topics[:, None], found[:, :-1]] == found[:, 1:, None]).reshape(-1, language.BRANCHES)
    assert (taken.sum(1) == 1).all(), "a word that the topic never lets follow"
    share, expected = taken.mean(0), np.array(language.PREFERENCE)
    assert (abs(share - expected) < Z * np.sqrt(expected * (1 - expected) / len(taken))).all()
    first = np.bincount(found[:, 0], minlength=language.WORDS) / 4000
    assert abs(first - 1 / language.WORDS).max() < Z * np.sqrt(1 / language.WORDS / 4000)


def test_every_word_has_different_successors_and_topics_differ():
    follow = language.habits()
    assert follow.shape == (language.TOPICS, language.WORDS, language.BRANCHES)
    assert all(len(set(each)) == language.BRANCHES for topic in follow for each in topic.tolist())
    assert np.mean(follow[0] == follow[1]) < 0.1


def test_most_texts_ask_for_their_topic():
    found = language.pretraining(4000, np.random.default_rng(2))
    asked = found[:, -2] == language.WHICH
    deviation = np.sqrt(language.ASKED * (1 - language.ASKED) / 4000)
    assert abs(asked.mean() - language.ASKED) < Z * deviation
    names = found[asked, -1] - language.NAMES
    assert set(names) == set(range(language.TOPICS))
    assert (found[~asked] < language.WORDS).all()
    assert (found[:, :-2] < language.WORDS).all()
    # The named topic is the one whose habits the words follow.
    follow = language.habits()[names]
    words = found[asked, :-2]
    allowed = follow[np.arange(len(words))[:, None], words[:, :-1]] == words[:, 1:, None]
    assert allowed.any(2).all()
    assert found.max() < language.VOCABULARY


def test_the_question_has_two_answers_of_equal_weight():
    data = language.question(400, 200)
    assert data.train_x.shape == (400, language.LENGTH)
    assert data.test_x.dtype == np.float32
    assert (data.train_x[:, -1] == language.WHICH).all()
    topics, _ = language.texts(600, language.LENGTH, np.random.default_rng(0))
    assert (data.train_y == language.NAMES + topics[:400] // 2).all()
    answers = np.concatenate([data.train_y, data.test_y]) - language.NAMES
    assert set(answers) == {0, 1}
    assert abs(answers.mean() - 0.5) < Z * np.sqrt(0.25 / 600)


@pytest.mark.parametrize("make", [lambda seed: language.question(20, 10, seed).train_x,
                                  lambda seed: language.pretraining(20, np.random.default_rng(seed))])  # fmt: skip
def test_the_seed_decides(make):
    assert (make(3) == make(3)).all()
    assert (make(3) != make(4)).any()
