"""A ledger in PostgreSQL is the one in SQLite: the same tests, the same digests, and errors that say what to do.

A server of its own is started for this file, in a folder that is removed; both end with the process of the tests, however
that ends.
"""

import inspect
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import select, text

from btclab.errors import InputError, LedgerError, StorageError
from btclab.operations.session import running
from btclab.records import Costs, Market
from btclab.trading.broker import PaperBroker
from btclab.trading.ledger import Ledger, LedgerBusy, WrongLedger, database, postgres, store, tables
from tests.trading import kill_writer, test_ledger
from tests.trading.test_ledger import GOOD, WORKED, add_note, opened

try:
    import psycopg
except ImportError:
    psycopg = None

ROOT = Path(__file__).resolve().parents[2]
PLACES = "/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin"  # as packagers lay it
COSTS = Costs(10, 5)


def program(name):
    """Where a program of PostgreSQL lies; most packagers leave the server's off the path."""
    if found := shutil.which(name):
        return Path(found)
    for place in PLACES:
        if found := sorted(Path("/").glob(f"{place[1:]}/{name}")):
            return found[-1]
    pytest.skip(
        f"PostgreSQL is not installed: no {name} on the path or in {', '.join(PLACES)}. apt-get install postgresql"
    )


class Server:
    """A PostgreSQL server that listens on a socket in its own folder only."""

    def __init__(self, folder):
        self.folder, self.data, self.numbers = folder, folder / "data", count(1)
        # It refuses to run as root.
        self.user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
        if self.user:
            shutil.chown(folder, "postgres", "postgres")
        words = [
            program("initdb"),
            "-D",
            self.data,
            "-U",
            "owner",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ]
        subprocess.run(words, check=True, capture_output=True, timeout=60, cwd=folder, **self.user)
        (self.data / "pg_hba.conf").write_text("local all owner trust\nlocal all all scram-sha-256\n")
        self.start()

    def start(self):
        quick = ("fsync=off", "full_page_writes=off", "autovacuum=off", "wal_level=minimal", "max_wal_senders=0")
        settings = ("listen_addresses=", f"unix_socket_directories={self.folder}", "shared_buffers=16MB", *quick)
        words = [program("postgres"), "-D", self.data, *(f"--{one}" for one in settings)]
        # The shell ends the server at a line from `stop`; if the tests' process is gone without one, the folder goes too.
        script = '"$@" </dev/null & read -r _ && keep=1; kill -QUIT $!; wait $!; [ "$keep" ] || rm -rf "$0"'
        shell = ["sh", "-c", script, self.folder, *words]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                shell, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=self.folder, **self.user
            )
        until = time.monotonic() + 30
        while True:
            try:
                self.run("SELECT 1")
            except psycopg.OperationalError:
                assert time.monotonic() < until, (self.folder / "log").read_text()
                time.sleep(0.02)
            else:
                return

    def stop(self):
        """End it at once, as a power cut would; what it wrote stays."""
        self.process.communicate(b"\n", timeout=30)

    def run(self, *statements, name="postgres", options=""):
        with psycopg.connect(
            host=str(self.folder), user="owner", dbname=name, options=options, autocommit=True
        ) as connection:
            for statement in statements:
                rows = connection.execute(statement)
            return rows.fetchall() if rows.description else None

    def url(self, name, user="owner"):
        return f"postgresql://{user}@/{name}?host={self.folder}"


@pytest.fixture(scope="module")
def server():
    if psycopg is None:
        pytest.skip("psycopg is not installed: pip install 'psycopg[binary]'")
    program("initdb")
    with tempfile.TemporaryDirectory(prefix="btclab-") as folder:  # pytest's own folders are closed to other users
        started = Server(Path(folder))
        yield started
        started.stop()


@pytest.fixture
def place(server):
    """A schema for one test."""
    schema = f"place_{next(server.numbers)}"
    server.run(f"CREATE SCHEMA {schema}")
    return schema


@pytest.fixture
def whole(server):
    """A database for one test: its name."""
    name = f"whole_{next(server.numbers)}"
    server.run(f"CREATE DATABASE {name}")
    return name


@pytest.fixture
def url(server, place):
    return f"{server.url('postgres')}&options=-csearch_path%3D{place}"


@pytest.fixture(autouse=True)
def here(server, place, url, monkeypatch):
    """What test_ledger.py says of its ledger, it says of this one."""

    def change(where, *statements, guarded=False):
        unguarded = [] if guarded else ["SET session_replication_role = replica"]
        server.run(*unguarded, *statements, options=f"-csearch_path={place}")

    monkeypatch.setattr(test_ledger, "URL", url)
    monkeypatch.setattr(test_ledger, "change", change)
    monkeypatch.setattr(test_ledger, "KILLS", max(5, test_ledger.KILLS // 5))
    monkeypatch.setattr(test_ledger, "KILLED_WITHIN", 0.5)  # a server is slower to begin with
    return change


@pytest.fixture
def impatient(monkeypatch):
    """A lock that is held is not waited for."""
    monkeypatch.setattr(postgres, "WAIT_S", 0.05)


@pytest.fixture
def file():
    """Of SQLite only; `change` needs none."""


# The tests of SQLite's ledger, here of PostgreSQL's. Left out is what opens no ledger, and what is about a file, for which
# there are tests of this module's own below.
OWN = (
    "the_database_itself_refuses",
    "told_who_holds",
    "a_reader_needs",
    "no_database",
    "another_program",
    "migrated",
    "migration",
    "restored_and_the_old",
    "damaged_backup",
    "a_reset_keeps",
    "of_the_old_ledger",
    "full_disk",
    "on_the_disk",
    "locked_database",
    "tampering",
    "address_that",
    "folder_that",
)
worked, writers = test_ledger.worked, test_ledger.writers
SAME = {
    name: one
    for name, one in vars(test_ledger).items()
    if name.startswith("test_")
    and not any(part in name for part in OWN)
    and ("worked" in inspect.signature(one).parameters or "opened(" in inspect.getsource(one))
}
globals().update(SAME)


def test_the_tests_of_sqlite_are_run_here_too():
    assert len(SAME) > 30
    assert "test_a_writer_that_is_killed_loses_nothing_and_doubles_nothing" in SAME


# The same ledger, to the last digit


def digests(ledger):
    with ledger._database.reading() as connection:
        return list(connection.scalars(select(tables.marks.c.digest).order_by(tables.marks.c.number)))


def frames(ledger):
    names = ("fill", "order", "event", "movement", "signals", "trade")
    return {**{name: getattr(ledger, f"{name}_table")() for name in names}, "equity": ledger.equity_curve()}


def assert_same(one, other):
    """Two ledgers have the same rows, digests, tables and figures."""
    assert digests(one) == digests(other)
    for name, frame in frames(one).items():
        pd.testing.assert_frame_equal(frame, frames(other)[name], check_exact=True)
    assert one.portfolio() == other.portfolio()
    assert one.state() == other.state()
    assert one._current().dump() == other._current().dump()
    one.check()
    other.check()


BROKER = """
import os, signal, sys
import pandas as pd
from btclab.trading.broker import PaperBroker, bars_of
market = pd.read_parquet(sys.argv[2])
broker = PaperBroker.open(sys.argv[1])
for i, (bar, target) in enumerate(zip(bars_of(market), market.pop("exposure"))):
    broker.process(bar, None if target != target else target)
    if i == 170:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_broker_that_is_killed_ends_with_the_ledger_that_sqlite_has_without(url, candles, home, monkeypatch):
    monkeypatch.setattr(store, "SNAPSHOT_EVERY", 50)
    market = candles.iloc[:300]
    steps = np.random.default_rng(3).choice([0.0, 0.3, 1.0, np.nan], size=len(market), p=[0.1, 0.1, 0.1, 0.7])
    exposure = pd.Series(steps, market.index)
    market.assign(exposure=exposure).to_parquet(home / "market.parquet")
    ledgers = []
    monkeypatch.setattr(store.time, "time_ns", lambda: 1)  # the digests are of the time at which it began, too
    for where in ("sqlite:///data/ledger.db", url):
        PaperBroker.open(where, 10_000, COSTS).ledger.close()
        if where == url:
            words = [sys.executable, "-c", BROKER, url, home / "market.parquet"]
            assert subprocess.run(words, check=False, cwd=ROOT, timeout=60).returncode == -signal.SIGKILL
        broker = PaperBroker.open(where)
        assert (broker.last_bar is None) == (where != url)
        broker.run(market, exposure)
        ledgers.append(broker.ledger)
    assert len(ledgers[1].fill_table()) > 50
    assert_same(*ledgers)
    for ledger in ledgers:
        ledger.close()


def filled(url, bars=30):
    with Ledger.open(url, Market(), "1h", 10_000.0) as ledger:
        ledger.append_many(kill_writer.entry(i) for i in range(1, bars + 1))
        ledger.request("cancel", {"order": "₿"})


def test_a_backup_is_a_sqlite_ledger_with_the_same_rows(url, tmp_path):
    filled(url)
    with Ledger.open(url, mode="read") as ledger:
        copy = ledger.backup(tmp_path / "copy.db")
        with Ledger.open(f"sqlite:///{copy}", mode="read") as kept:
            assert_same(ledger, kept)
            assert kept.pending() == ledger.pending()
    with Ledger.open(f"sqlite:///{copy}") as kept:  # and it can be gone on with
        kept.append_many([kill_writer.entry(31)])
    assert [path.name for path in tmp_path.iterdir() if "copy" in path.name and path.suffix == ".db"] == ["copy.db"]


def test_a_ledger_in_sqlite_moves_to_postgresql(url, home):
    filled("sqlite:///data/ledger.db")
    assert Ledger.restore(home / "data" / "ledger.db", url) is None
    with Ledger.open("sqlite:///data/ledger.db") as old, Ledger.open(url) as moved:
        assert_same(old, moved)
        assert moved.pending() == old.pending()
        for ledger in (old, moved):
            ledger.append_many([kill_writer.entry(31)])
        assert_same(old, moved)
    with pytest.raises(LedgerError, match="fills is append-only"), Ledger.open(url) as moved:
        refused(moved, "DELETE FROM fills")


def test_a_restored_backup_takes_the_place_of_the_ledger_which_is_kept(url, worked, tmp_path, impatient):
    copy = worked.backup(tmp_path / "copy.db")
    worked.append_many([GOOD])
    with pytest.raises(LedgerBusy):
        Ledger.restore(copy, url)
    worked.close()
    with opened(mode="read") as reader:
        assert reader.portfolio()["fills"] == 4
        old = Ledger.restore(copy, url)
        assert reader.portfolio()["fills"] == 3
    with Ledger.open(old, mode="read") as kept:
        assert kept.portfolio()["fills"] == 4


def test_a_damaged_backup_is_not_restored_and_nothing_is_moved(url, worked, tmp_path, server, place):
    copy = worked.backup(tmp_path / "copy.db")
    with database.sqlite3.connect(copy) as connection:
        connection.execute("DROP TRIGGER fills_no_update")
        connection.execute("UPDATE fills SET fee = '0' WHERE number = 1")
    worked.close()
    with pytest.raises(LedgerError, match="changed from outside"):
        Ledger.restore(copy, url)
    with opened() as ledger:
        assert ledger.portfolio()["fills"] == 3
    assert server.run(f"SELECT nspname FROM pg_namespace WHERE nspname LIKE '{place}%'") == [(place,)]


def test_what_pg_dump_wrote_is_the_same_ledger(server, whole):
    filled(server.url(whole))
    server.run("CREATE DATABASE restored")
    common = ["-h", server.folder, "-U", "owner", "-d"]
    dump = subprocess.run([program("pg_dump"), *common, whole], check=True, capture_output=True, timeout=60)
    words = [program("psql"), "-q", "-v", "ON_ERROR_STOP=1", *common, "restored"]
    subprocess.run(words, input=dump.stdout, check=True, capture_output=True, timeout=60)
    with Ledger.open(server.url(whole)) as ledger, Ledger.open(server.url("restored")) as restored:
        assert_same(ledger, restored)
        restored.append_many([kill_writer.entry(31)])
        with pytest.raises(LedgerError, match="append-only"):
            refused(restored, "DELETE FROM fills")


def test_no_default_of_a_server_rounds_a_number_or_gives_up_durability(server, whole):
    for setting in (
        "extra_float_digits = -15",
        "synchronous_commit = off",
        "default_transaction_isolation = serializable",
    ):
        server.run(f"ALTER DATABASE {whole} SET {setting}")
    filled(server.url(whole))
    with Ledger.open(server.url(whole)) as ledger:
        ledger.check()
        names = ("synchronous_commit", "extra_float_digits", "transaction_isolation")
        with ledger._database.writing() as connection:
            found = [connection.scalar(text(f"SHOW {name}")) for name in names]
    assert found == ["on", "1", "read committed"]


# Append-only


def refused(ledger, statement):
    with ledger._database.writing() as connection:
        connection.exec_driver_sql(statement)


CHANGES = ["UPDATE {0} SET {1} = {1}", "DELETE FROM {0}", "TRUNCATE {0} CASCADE", "INSERT INTO {0} SELECT * FROM {0}"]


def test_the_database_itself_refuses_every_change(monkeypatch):
    monkeypatch.setattr(store, "SNAPSHOT_EVERY", 1)
    with opened() as ledger:
        ledger.append_many(WORKED)
        ledger.request("cancel", {})
        for name, table in tables.metadata.tables.items():
            for statement in CHANGES:
                with pytest.raises(LedgerError, match=rf"refuses this: {name}.*(append-only|out of its turn)"):
                    refused(ledger, statement.format(name, table.c[0].name))
        ledger.check()


@pytest.mark.parametrize(
    "row", ["fills VALUES (9, {0}, 'buy', '1', '1', '0', 0, NULL, NULL, '', FALSE)", "schema_versions VALUES (0, 0)"]
)
def test_a_row_out_of_its_turn_is_refused(worked, row):
    with pytest.raises(LedgerError, match="a row out of its turn"):
        refused(worked, f"INSERT INTO {row.format(test_ledger.at(6))}")


@pytest.mark.parametrize("what", ["a price by the last digit", "exposure", "the last mark is lost", "a fill is added"])
def test_tampering_by_one_who_may_is_noticed_on_open(worked, here, what):
    worked.close()
    here(None, test_ledger.TAMPERING[what])
    with pytest.raises(LedgerError, match="changed from outside or is damaged"):
        opened()


# One writer, many readers, requests


def test_the_second_writer_is_told_which_process_on_which_machine_writes(worked, impatient):
    with pytest.raises(LedgerBusy, match=rf"is being written by process {os.getpid()} on \S+; one process writes"):
        opened()


def test_each_schema_has_a_writer_of_its_own(worked, server, whole):
    with opened(server.url(whole)) as other:
        other.append_many([GOOD])
    server.run("CREATE SCHEMA other", name=whole)
    with opened(server.url(whole)), opened(f"{server.url(whole)}&options=-csearch_path%3Dother") as third:
        assert third.portfolio()["bars"] == 0


def test_who_asks_whether_a_trader_runs_takes_no_lock(worked, url, server):
    assert running(url) == 0
    worked.close()
    assert running(url) is None
    with opened(mode="read") as reader:
        reader.portfolio()
        opened().close()


def test_the_lock_of_a_writer_that_was_just_killed_is_waited_for(worked, server):
    """The server needs a moment to notice."""
    threading.Timer(0.3, worked.close).start()
    opened().close()


ASK = """
import os, sys
from btclab.trading.ledger import Ledger
children = []
for _ in range(3):
    if child := os.fork():
        children.append(child)
        continue
    with Ledger.open(sys.argv[1], mode="read") as ledger:
        for _ in range(40):
            ledger.request("cancel", {})
    os._exit(0)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


def test_processes_that_ask_at_once_get_numbers_one_after_the_other(worked, url):
    subprocess.run([sys.executable, "-c", ASK, url], check=True, cwd=ROOT, timeout=60)
    assert len(worked.pending()) == 120
    worked.check()


def test_a_colleague_may_read_and_ask_and_change_nothing(server, whole, impatient):
    filled(server.url(whole))
    server.run(
        "CREATE ROLE colleague LOGIN PASSWORD 'hush'",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO colleague",
        "GRANT INSERT ON requests TO colleague",
        name=whole,
    )
    own = f"postgresql://colleague:hush@/{whole}?host={server.folder}"
    with Ledger.open(server.url(whole)) as ledger, Ledger.open(own, mode="read") as reader:
        assert_same(ledger, reader)
        asked = reader.request("close", {})
        assert ledger.pending()[-1].id == asked
        with pytest.raises(LedgerBusy, match=f"process {os.getpid()}"):
            Ledger.open(own)
        ledger.append_many([kill_writer.entry(31)])
    with Ledger.open(own) as ledger, pytest.raises(StorageError, match=r"permission denied .* GRANT") as denied:
        ledger.append_many([kill_writer.entry(32)])
    assert "hush" not in str(denied.value)


def test_a_reset_keeps_the_old_ledger_in_another_schema(server, whole, url, impatient):
    for own in (server.url(whole), url):
        filled(own)
        with Ledger.open(own) as ledger:
            expected = digests(ledger)
            with pytest.raises(LedgerBusy):
                Ledger.reset(own)
        old = Ledger.reset(own)
        assert Ledger.reset(own) is None
        with pytest.raises(WrongLedger, match="no ledger yet"):
            Ledger.open(own, mode="read")
        with opened(own) as ledger, Ledger.open(old, mode="read") as kept:
            assert ledger.portfolio()["bars"] == 0
            assert digests(kept) == expected
            kept.check()
        with Ledger.open(old) as kept:  # its triggers went with it
            kept.append_many([kill_writer.entry(31)])
            with pytest.raises(LedgerError, match="append-only"):
                refused(kept, "DELETE FROM fills")
        assert Ledger.reset(own) != old


def test_a_table_of_another_program_is_left_alone(url, here, server, place):
    here(None, "CREATE TABLE songs (title TEXT)")
    with pytest.raises(WrongLedger, match=r"holds other tables \(songs\)"):
        opened()
    assert Ledger.reset(url) is None
    assert server.run(f"SELECT tablename FROM pg_tables WHERE schemaname = '{place}'") == [("songs",)]


def test_an_older_schema_is_migrated_in_one_transaction(url, here, monkeypatch):
    opened().close()

    def fail(connection):
        add_note(connection)
        raise ZeroDivisionError("no such luck")

    monkeypatch.setattr(store, "SCHEMA", 2)
    monkeypatch.setattr(store, "MIGRATIONS", [fail])
    with pytest.raises(StorageError, match=r"from schema 1 to 2 and is unchanged: no such luck"):
        opened()
    monkeypatch.setattr(store, "MIGRATIONS", [add_note])
    with opened() as ledger:
        ledger.append_many(WORKED)
        ledger.check()
        with pytest.raises(LedgerError, match="append-only"):
            refused(ledger, "DELETE FROM fills")


# What goes wrong


def test_a_server_that_dies_loses_nothing_that_was_promised(worked, server):
    with opened(mode="read") as reader:
        reader.portfolio()
        server.stop()
        server.start()
        with pytest.raises(StorageError, match=r"connection was lost \(.*Start again: .* as a whole or not at all"):
            worked.append_many([GOOD])
        with pytest.raises(StorageError, match=r"the lock with it\. Open the ledger again"):
            worked.append_many([GOOD])
        assert reader.portfolio()["fills"] == 3  # a reader connects again by itself
    worked.close()
    with opened() as ledger:
        ledger.append_many([GOOD])
        ledger.check()


def test_a_connection_that_is_lost_in_a_transaction_leaves_none_of_it(worked, server):
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'"
    with pytest.raises(StorageError, match="the connection was lost"), worked._database.writing() as connection:
        connection.exec_driver_sql("INSERT INTO requests VALUES (1, 'a', 0, 'cancel', '{}')")
        server.run(end)
        connection.exec_driver_sql("INSERT INTO requests VALUES (2, 'b', 0, 'cancel', '{}')")
    worked.close()
    with opened() as ledger:
        assert ledger.pending() == []


def test_a_table_that_is_locked_is_not_waited_for_for_ever(server, place, monkeypatch):
    monkeypatch.setattr(database, "BUSY_S", 0.05)
    with opened() as ledger, psycopg.connect(host=str(server.folder), user="owner", dbname="postgres") as other:
        ledger.append_many(WORKED)
        other.execute(f"LOCK TABLE {place}.marks IN EXCLUSIVE MODE")
        with pytest.raises(StorageError, match=r"locked it for more than 0\.05 s; close that one and try again"):
            ledger.append_many([GOOD])
        assert ledger.portfolio()["fills"] == 3  # reading goes on
        other.rollback()
        ledger.append_many([GOOD])
        ledger.check()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("53100", "could not extend file. Nothing was written: the disk is full; free some space and start again"),
        ("40001", "could not extend file. Nothing was written: another program has locked it"),
        ("58030", "the disk does not answer"),
    ],
)
def test_what_the_server_cannot_do_is_said_and_nothing_is_written(worked, here, code, message):
    here(
        None,
        f"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'could not extend file' "
        f"USING ERRCODE = '{code}'; END $$",
        "CREATE TRIGGER fail BEFORE INSERT ON fills EXECUTE FUNCTION fail()",
        guarded=True,
    )
    with pytest.raises(StorageError, match=message):
        worked.append_many([GOOD])
    here(None, "DROP TRIGGER fail ON fills", guarded=True)
    worked.append_many([GOOD])
    worked.check()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "postgresql://me:hush@127.0.0.1:9/x",
            "cannot be reached: .*refused.* Check host, port, database, user and pass",
        ),
        ("postgresql://me:hush@/postgres?host={0}", "cannot be reached: .*password authentication failed for user"),
        ("postgresql://owner:hush@/missing?host={0}", 'cannot be reached: .*database "missing" does not exist'),
        ("postgresql://owner@/postgres?host={0}&password=hush&options=-csearch_path%3Dnone", "CREATE SCHEMA"),
        (
            "postgresql://owner:hush@/postgres?host={0}&nonsense=1",
            'cannot be reached: invalid connection option "nonsense". Check',
        ),
    ],
)
def test_an_address_at_which_no_ledger_can_be_begun(server, address, message):
    with pytest.raises((StorageError, InputError), match=message) as refusal:
        opened(address.format(server.folder))
    assert "hush" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_reader_finds_no_ledger(url):
    with pytest.raises(WrongLedger, match=r"holds no ledger yet\. .*`btclab paper run`"):
        opened(mode="read")


def test_a_database_without_all_letters_is_refused(server):
    server.run("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    with pytest.raises(InputError, match=r"latin keeps text as LATIN1, which lacks letters; .* ENCODING 'UTF8'"):
        opened(server.url("latin"))


def test_a_driver_that_is_not_installed(url, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError, match=r"needs a driver: .*Type: pip install 'psycopg\[binary\]'"):
        opened()


def test_no_message_has_the_password_in_it():
    names = "password", "sslpassword", "PASSWORD", "foo"
    secret = "&".join(["postgresql://me:hush@host/x?options=-csearch_path%3Dteam", *(f"{one}=hush" for one in names)])
    own = postgres.checked(database.make_url(secret))
    assert postgres.readable(own) == "postgresql+psycopg://me@host/x?options=-csearch_path%3Dteam"
    assert postgres.in_schema(own, "old").query["options"] == "-csearch_path=old"


def test_the_server_and_its_folder_are_gone_when_the_tests_are_killed():
    script = (
        "import signal, sys\nfrom pathlib import Path\nfrom tests.trading.test_postgres import Server\n"
        "started = Server(Path(sys.argv[1]))\nprint(started.process.pid, flush=True)\nsignal.pause()\n"
    )
    folder = Path(tempfile.mkdtemp(prefix="btclab-"))
    try:
        with subprocess.Popen([sys.executable, "-c", script, folder], stdout=subprocess.PIPE, cwd=ROOT) as tests:
            assert int(tests.stdout.readline())
            assert (folder / "data" / "postmaster.pid").exists()
            tests.kill()
        until = time.monotonic() + 20
        while folder.exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert not folder.exists()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# The command line


def test_paper_trading_from_the_command_line(url, call, home):
    words = ["--ledger", url]
    code, out, err = call("paper", "run", "--source", "simulated:1", "--strategy", "sma_cross", "--bars", "60", *words)
    assert code == 0, err
    code, out, _ = call("paper", "order", "buy", "0.01", *words)
    assert (code, "No trader runs" in out) == (0, True)
    with Ledger.open(url):
        assert "a trader is running" in call("paper", "status", *words)[1]
    code, out, _ = call("paper", "status", *words)
    assert (code, "no trader is running" in out, "60" in out) == (0, True, True)
    assert call("paper", "history", "equity", *words)[0] == 0
    code, out, _ = call("paper", "reset", "--yes", *words)
    assert code == 0
    old = out.strip().removeprefix("The old ledger lies at ").removesuffix(".")
    assert call("paper", "history", "equity", "--ledger", old)[0] == 0
    code, _, err = call("paper", "status", *words)
    assert (code, "no ledger yet" in err) == (2, True)
