"""Photographs of the concepts of the embedded data, with the names of both sources.

A photograph belongs to a concept if its English title is one of the concept's English names. Its
accepted names are the union of its title and the concept's names: translators choose honest
synonyms (strawberry: mailukia, marrubia).
"""

from collections.abc import Sequence

from core.chat.characters import split_words
from data_prep.embedded.concepts import Catalogue, Lexicon
from data_prep.embedded.votes import NUM_ANSWERS, Voter
from data_prep.photographs.items import NamedPhotograph
from data_prep.photographs.photograph import ENGLISH, Photograph

_ARTICLES = frozenset({"a", "an", "the", "some"})
_TITLE_VOTES, _NAME_VOTES = 4, 4
"""Answers of the ten that are the title and the concept's name; an answer that three people gave
scores fully."""


def name_photographs(
    photographs: Sequence[Photograph], catalogue: Catalogue
) -> list[NamedPhotograph]:
    """Return the photographs that show a concept.

    Args:
        photographs: Photographs with titles in the languages of the catalogue.
        catalogue: Concepts with their names; one of its languages is English.
    """
    by_name = _concepts_by_name(catalogue)
    voters = [Voter(catalogue, lexicon) for lexicon in catalogue.lexicons]
    found = []
    for photograph in photographs:
        concept = by_name.get(_plain(photograph.titles[ENGLISH]))
        if concept is not None:
            answers = {
                voter.lexicon.language.code: _answers(
                    photograph.titles[voter.lexicon.language.code], voter.name_answers(concept)
                )
                for voter in voters
            }
            found.append(NamedPhotograph(photograph=photograph, answers=answers))
    return found


def _answers(title: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return ten answers: the title, the concept's name, and its other names."""
    others = list(dict.fromkeys(names))[1:]
    votes = [names[0]] * _NAME_VOTES + [title] * _TITLE_VOTES
    votes += others[: NUM_ANSWERS - len(votes)]
    return (*votes, *[names[0]] * (NUM_ANSWERS - len(votes)))


def _concepts_by_name(catalogue: Catalogue) -> dict[tuple[str, ...], int]:
    """Return name without article -> concept, for names that belong to one concept only."""
    lexicon = next(lex for lex in catalogue.lexicons if lex.language.code == ENGLISH)
    owners: dict[tuple[str, ...], set[int]] = {}
    for concept in range(len(catalogue)):
        for name in _english_names(lexicon, concept):
            owners.setdefault(_plain(name), set()).add(concept)
    return {name: found.pop() for name, found in owners.items() if len(found) == 1}


def _english_names(lexicon: Lexicon, concept: int) -> list[str]:
    name = lexicon.names[concept]
    synonyms = lexicon.language.synonyms.get(lexicon.codepoints[concept], ())
    return [name, name.removesuffix(" face"), *synonyms]


def _plain(title: str) -> tuple[str, ...]:
    """Return the words of a title in lower case, without article and plural ending."""
    words = [word for word in split_words(title.casefold()) if word not in _ARTICLES]
    return tuple(word.removesuffix("s") for word in words)
