"""A test of shop.py without a server, with pytest."""

import pytest
import shop
from corral_client.testing import memory


@pytest.fixture
def fake(tmp_path, monkeypatch):
    monkeypatch.setattr(shop, "database", str(tmp_path / "shop.db"))
    with memory(shop.corral) as fake:
        yield fake


def sent():
    return shop.execute("SELECT address, text FROM outbox ORDER BY rowid")


def test_a_new_customer_is_welcomed_once(fake):
    assert shop.sign_up("ann@example.org") == shop.sign_up("ann@example.org")
    fake.run()
    assert sent() == [("ann@example.org", "Welcome")]


def test_the_reminder_is_about_the_last_item_and_comes_30_minutes_after_it(fake):
    shop.add_to_cart("ann@example.org", "tea")
    fake.advance("20m")
    shop.add_to_cart("ann@example.org", "milk")
    fake.advance("20m")
    assert fake.run() == []
    fake.advance("10m")
    fake.run()
    assert sent() == [("ann@example.org", "Your cart is waiting, with milk")]


def test_a_wrong_address_is_a_dead_letter(fake):
    shop.forgotten("ann")
    assert [run.outcome for run in fake.run()] == ["FATAL"]
    assert fake.dead_letters("{shop}:urgent")[0]["reason"] == "Fatal: 'ann' is no address"


def test_a_database_that_is_away_is_tried_again(fake, monkeypatch):
    monkeypatch.setattr(shop, "database", "/nowhere/shop.db")
    shop.forgotten("ann@example.org")
    assert [run.outcome for run in fake.run()] == ["FAIL"]
    monkeypatch.undo()
    fake.advance("10m")
    assert [run.attempt for run in fake.run()] == [2]


def test_the_report_runs_at_night(fake):
    fake.run()
    fake.advance("1d")
    assert [run.task for run in fake.run()] == ["report"]
    [(mails, fence)] = shop.execute("SELECT mails, fence FROM report")
    assert mails == 0 and fence > 0
