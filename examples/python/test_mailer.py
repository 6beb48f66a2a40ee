"""A test of mailer.py without a server, with pytest."""

import mailer
import pytest
from corral_client.testing import memory


@pytest.fixture
def fake(tmp_path, monkeypatch):
    monkeypatch.setattr(mailer, "database", str(tmp_path / "shop.db"))
    with memory(mailer.corral) as fake:
        yield fake


def sent():
    return mailer.execute("SELECT address, text FROM outbox ORDER BY rowid")


def test_a_new_customer_is_welcomed_and_reminded_once(fake):
    mailer.welcome.publish(to="ann@example.org")
    mailer.welcome.publish(to="ann@example.org")
    fake.run()
    assert sent() == [("ann@example.org", "Welcome")] * 2
    fake.advance("30m")
    fake.run()
    assert sent()[2:] == [("ann@example.org", "Your cart is waiting")]


def test_a_wrong_address_is_a_dead_letter(fake):
    mailer.reset_password.publish(to="ann")
    assert [run.outcome for run in fake.run()] == ["FATAL"]
    assert fake.dead_letters("{shop}:urgent")[0]["reason"] == "Fatal: 'ann' is no address"


def test_a_database_that_is_away_is_tried_again(fake, monkeypatch):
    monkeypatch.setattr(mailer, "database", "/nowhere/shop.db")
    mailer.reset_password.publish(to="ann@example.org")
    assert [run.outcome for run in fake.run()] == ["FAIL"]
    monkeypatch.undo()
    fake.advance("10m")
    assert [run.attempt for run in fake.run()] == [2]


def test_the_report_runs_at_night(fake):
    fake.run()
    fake.advance("1d")
    assert [run.task for run in fake.run()] == ["report"]
    [(mails, fence)] = mailer.execute("SELECT mails, fence FROM report")
    assert mails == 0 and fence > 0
