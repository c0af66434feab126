"""Which cells share a loop."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from symdream.bench.together import grouped, how_many
from symdream.tuners.batched import FAMILIES

CELLS = st.lists(st.builds(SimpleNamespace, method=st.sampled_from(list(FAMILIES)), rank=st.sampled_from([8, 16])))


@given(CELLS, st.integers(1, 9))
def test_groups_hold_every_cell_once_of_one_family_and_rank_in_the_order_of_work(cells, size):
    groups = grouped(cells, size)
    assert sorted(map(id, cells)) == sorted(id(cell) for group in groups for cell in group)
    place = {id(cell): i for i, cell in enumerate(cells)}
    firsts = [place[id(group[0])] for group in groups]
    assert firsts == sorted(firsts)
    for group in groups:
        assert 1 <= len(group) <= size and len({(FAMILIES[cell.method], cell.rank) for cell in group}) == 1
        assert [place[id(cell)] for cell in group] == sorted(place[id(cell)] for cell in group)
    whole = {}  # no more groups than it takes
    for cell in cells:
        kind = (FAMILIES[cell.method], cell.rank)
        whole[kind] = whole.get(kind, 0) + 1
    assert len(groups) == sum(-(-count // size) for count in whole.values())


def test_a_cpu_trains_one_by_one_unless_asked():
    assert (how_many(None, "cpu"), how_many(3, "cpu"), how_many(None, "cuda"), how_many(1, "cuda")) == (1, 3, 8, 1)
