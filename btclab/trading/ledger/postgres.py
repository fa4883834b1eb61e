"""What is particular to a ledger in PostgreSQL: its sessions, the lock of its writer, and how it is put aside.

It lies in the first schema of the search path, "public" unless its address says otherwise: `?options=-csearch_path%3Dteam`.
"""

from __future__ import annotations

import os
import re
import socket
import time
from typing import Any

from sqlalchemy import URL, Connection, inspect, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.schema import CreateSchema

from btclab.errors import InputError
from btclab.trading.ledger.tables import functions, metadata

DRIVER = "postgresql+psycopg"
WAIT_S = 1.0  # until the server has noticed that a writer was killed, and its lock is free
LOCK_MISSED = "55P03"  # SQLSTATE
SILENCE_S = 60  # after so many seconds without a sign of life from the other machine the connection is lost
SHOWN = ("host", "port", "options", "sslmode")  # of what follows the ? of an address; the rest may be a secret
# One lock of the writer and one of those who number requests, for each schema: the key's lower half is the schema's.
WRITER, REQUESTS = 0x6274636C, 0x62746371
_SCHEMA = "(SELECT oid FROM pg_namespace WHERE nspname = current_schema())"
_KEY = f"(CAST(:lock AS bigint) << 32) + CAST({_SCHEMA} AS bigint)"


def readable(url: URL) -> str:
    """The address without secrets, for messages; it can be used where the password comes from ~/.pgpass."""
    query = {name: value for name, value in url.query.items() if name in SHOWN}
    return URL.create(url.drivername, url.username, None, url.host, url.port, url.database, query).render_as_string()


def in_schema(url: URL, schema: str) -> URL:
    """The address of the ledger in another schema of the same database."""
    options = re.sub(r"-c\s*search_path=\S*", "", str(url.query.get("options", ""))).strip()
    return url.update_query_dict({"options": f"{options} -csearch_path={schema}".strip()})


def checked(url: URL) -> URL:
    """The address with its driver. Raises `InputError` for another driver, and for a password that broke the address."""
    if url.drivername not in ("postgresql", DRIVER):
        raise InputError(
            f"A ledger cannot be reached by {url.drivername}, which needs a driver of its own: write {DRIVER}."
        )
    if "@" in (url.host or ""):
        raise InputError("The ledger's address has two @: write %40 for one in the password, or keep it in ~/.pgpass.")
    return url.set(drivername=DRIVER)


def arguments(url: URL) -> dict[str, Any]:
    """What a connection begins with, beside what the address says."""
    own = {
        "connect_timeout": 10,
        "keepalives_idle": SILENCE_S // 2,
        "keepalives_interval": SILENCE_S // 6,
        "keepalives_count": 3,
        "tcp_user_timeout": 1000 * SILENCE_S,
    }
    always = {"client_encoding": "utf8", "application_name": f"btclab {os.getpid()} on {socket.gethostname()}"}
    return {name: value for name, value in own.items() if name not in url.query} | always


def prepare(raw: Any, busy_s: float) -> None:
    """What the ledger relies on, whatever the server's, the database's or the user's defaults are."""
    if (encoding := raw.info.parameter_status("server_encoding")) != "UTF8":
        raise InputError(
            f"The database {raw.info.dbname} keeps text as {encoding}, which lacks letters; make another one: "
            "CREATE DATABASE btclab ENCODING 'UTF8' TEMPLATE template0."
        )
    raw.autocommit = True  # so that the settings outlive a transaction that fails
    raw.execute(
        f"SET lock_timeout = {1000 * busy_s:.0f}; SET extra_float_digits = 1; "
        f"SET idle_session_timeout = 0; SET tcp_keepalives_idle = {SILENCE_S // 2}; "
        f"SET tcp_keepalives_interval = {SILENCE_S // 6}; SET tcp_keepalives_count = 3; "
        # A commit is on the server's disk when it returns; who waits for a second server goes on doing so.
        "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
    )
    raw.autocommit = False


def lock_writer(connection: Connection) -> bool:
    """Take the writer's lock, which ends with the session, however the process ends; False if another one holds it."""
    try:
        with connection.begin():
            connection.execute(text(f"SET LOCAL lock_timeout = {1000 * WAIT_S:.0f}"))
            connection.execute(text(f"SELECT pg_advisory_lock({_KEY})"), {"lock": WRITER})
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", "") != LOCK_MISSED:
            raise
        return False
    return True


def writer(connection: Connection) -> str | None:
    """The process that holds the writer's lock, as "123 on its-machine"; None if nobody does."""
    query = (
        "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND granted "
        "AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
        f"AND classid = CAST(:lock AS oid) AND objid = {_SCHEMA}"
    )
    holder = connection.scalar(text(query), {"lock": WRITER})
    return None if holder is None else str(holder).removeprefix("btclab ")


def take_turn(connection: Connection) -> None:
    """Until the transaction ends, no other process numbers a request. In SQLite nobody else writes since it began."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_KEY})"), {"lock": REQUESTS})


def identity(connection: Connection) -> object:
    """Another one after a reset or restore; None where no ledger lies."""
    return connection.scalar(text("SELECT CAST(to_regclass('marks') AS oid)"))


def put_aside(connection: Connection) -> str | None:
    """Move the ledger into a new schema with the time in its name, which is returned; None if there is none."""
    held = set(inspect(connection).get_table_names())
    if "schema_versions" not in held:
        return None
    stamp = time.strftime("%Y%m%dt%H%M%Sz", time.gmtime())
    name = f"{connection.scalar(text('SELECT current_schema()'))}_{stamp}"
    taken = set(inspect(connection).get_schema_names())
    name = next(one for one in (name, *(f"{name}_{i}" for i in range(2, 1000))) if one not in taken)
    connection.execute(CreateSchema(name))
    quoted = connection.dialect.identifier_preparer.quote(name)
    for table in held & set(metadata.tables):
        connection.execute(text(f"ALTER TABLE {table} SET SCHEMA {quoted}"))
    for function in functions():
        connection.execute(text(f"ALTER FUNCTION {function}() SET SCHEMA {quoted}"))
    return name
