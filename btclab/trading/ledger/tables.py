"""The tables of a ledger and what makes them append-only.

Rows of a table are numbered 1, 2, 3 … and belong to a bar. `marks` has one row per processed bar, its open time being the
key: a bar cannot be processed twice. Its `digest` is the SHA-256 of the previous one and of all rows of the bar, so that
a row that was changed, added or lost is noticed. Amounts are decimals written as text.
"""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    insert,
    select,
)

from btclab.trading.ledger.exact import text_of


class Amount(TypeDecorator[Decimal]):
    """A decimal, stored as text: no database rounds it."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> str | None:
        return None if value is None else text_of(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


# SQLite's row key must be called INTEGER; its integers have 64 bits all the same.
Whole = BigInteger().with_variant(Integer(), "sqlite")
metadata = MetaData()


def _number() -> Column[int]:
    return Column("number", Whole, primary_key=True, autoincrement=False)


def _bar(nullable: bool = False) -> Column[int]:
    return Column("bar", Whole, ForeignKey("marks.bar"), nullable=nullable, index=True)


account = Table(
    "account",
    metadata,
    _number(),
    Column("symbol", Text, nullable=False),
    Column("timeframe", Text, nullable=False),
    Column("initial_cash", Amount, nullable=False),
    Column("created", Whole, nullable=False),
    CheckConstraint("number = 1", name="one_account"),
)
schema_versions = Table(
    "schema_versions",
    metadata,
    Column("version", Whole, primary_key=True, autoincrement=False),
    Column("since", Whole, nullable=False),
)
marks = Table(
    "marks",
    metadata,
    Column("bar", Whole, primary_key=True, autoincrement=False),
    Column("number", Whole, nullable=False, unique=True),
    *(Column(name, Amount, nullable=False) for name in ("open", "high", "low", "close")),
    Column("volume", Amount),  # NULL: without a limit
    Column("equity", Amount, nullable=False),
    Column("exposure", Float, nullable=False),
    Column("state", Text, nullable=False),
    Column("digest", Text, nullable=False),
)
orders = Table(
    "orders",
    metadata,
    _number(),
    _bar(),
    Column("id", Text, unique=True),  # NULL: has none
    Column("decided", Whole, nullable=False),
    Column("exposure", Float),
    Column("kind", Text, nullable=False),
    Column("side", Text, nullable=False),
    *(Column(name, Amount) for name in ("quantity", "limit", "stop")),
    Column("trail", Float),
    Column("lifetime", Text, nullable=False),
    Column("expires", Whole, nullable=False),
    *(Column(name, Text, nullable=False) for name in ("group", "parent", "reason")),
)
order_events = Table(
    "order_events",
    metadata,
    _number(),
    _bar(),
    Column("timestamp", Whole, nullable=False),
    *(Column(name, Text, nullable=False) for name in ("order", "event", "rule", "text")),
)
Index("order_events_of_order", order_events.c.order, order_events.c.number)
fills = Table(
    "fills",
    metadata,
    _number(),
    _bar(),
    Column("side", Text, nullable=False),
    *(Column(name, Amount, nullable=False) for name in ("quantity", "price", "fee")),
    Column("decided", Whole, nullable=False),
    Column("exposure", Float),
    Column("order", Text, ForeignKey("orders.id")),  # NULL: an order without an id
    Column("reason", Text, nullable=False),
    Column("maker", Boolean, nullable=False),
)
cash_movements = Table(
    "cash_movements",
    metadata,
    _number(),
    _bar(nullable=True),  # NULL: the first deposit, before any bar
    Column("kind", Text, nullable=False),
    Column("amount", Amount, nullable=False),
    Column("text", Text, nullable=False),
)
signals = Table(
    "signals",
    metadata,
    _number(),
    _bar(),
    Column("side", Text, nullable=False),
    Column("exposure", Float),
    Column("confidence", Float),
    Column("reasons", Text, nullable=False),  # JSON
)
requests = Table(
    "requests",
    metadata,
    _number(),
    Column("id", Text, nullable=False, unique=True),
    Column("created", Whole, nullable=False),
    Column("kind", Text, nullable=False),
    Column("body", Text, nullable=False),  # JSON
)
snapshots = Table(
    "snapshots",
    metadata,
    _number(),
    _bar(),
    Column("trades", Whole, nullable=False),
    Column("fills", Whole, nullable=False),
    Column("book", Text, nullable=False),  # JSON
    Column("digest", Text, nullable=False),
)
OF_A_BAR = (cash_movements, orders, order_events, fills, signals)  # rows that a bar may have, beside its mark
COPIED = 5_000  # rows that are copied at once


def _out_of_turn(table: Table) -> str:
    """The condition under which the row NEW does not follow the last one."""
    keys = [key.name for key in table.primary_key if key.name != "number"]
    wrong = [f"NEW.{key} <= (SELECT max({key}) FROM {table.name})" for key in keys]
    if "number" in table.c:
        wrong.append(f"NEW.number <> (SELECT coalesce(max(number), 0) + 1 FROM {table.name})")
    return " OR ".join(wrong)


def functions() -> dict[str, str]:
    """Those of PostgreSQL's triggers: name → body."""
    refuse = "RAISE EXCEPTION USING ERRCODE = 'integrity_constraint_violation', MESSAGE = TG_TABLE_NAME ||"
    in_turn = {
        f"{name}_in_turn": f"IF {_out_of_turn(table)} THEN {refuse} ': a row out of its turn'; END IF; RETURN NEW;"
        for name, table in metadata.tables.items()
    }
    return {"refuse_change": f"{refuse} ' is append-only';"} | in_turn


def guard(connection: Connection) -> None:
    """Have the database itself refuse UPDATE and DELETE, and a row out of its turn (in SQLite also INSERT OR REPLACE)."""
    if connection.dialect.name == "postgresql":
        for function, body in functions().items():
            connection.exec_driver_sql(
                f"CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$"
            )
        for name in metadata.tables:
            connection.exec_driver_sql(
                f"CREATE TRIGGER {name}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {name} "
                "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
            )
            connection.exec_driver_sql(
                f"CREATE TRIGGER {name}_in_turn BEFORE INSERT ON {name} FOR EACH ROW EXECUTE FUNCTION {name}_in_turn()"
            )
    elif connection.dialect.name == "sqlite":
        for name, table in metadata.tables.items():
            for change in ("UPDATE", "DELETE"):
                connection.exec_driver_sql(
                    f"CREATE TRIGGER {name}_no_{change.lower()} BEFORE {change} ON {name} "
                    f"BEGIN SELECT RAISE(ABORT, '{name} is append-only'); END"
                )
            connection.exec_driver_sql(
                f"CREATE TRIGGER {name}_in_turn BEFORE INSERT ON {name} WHEN {_out_of_turn(table)} "
                f"BEGIN SELECT RAISE(ABORT, '{name}: a row out of its turn'); END"
            )


def unguard(connection: Connection) -> None:
    """Take away what `guard` made, for a migration; in the same transaction it is made anew."""
    if connection.dialect.name == "postgresql":
        for name in metadata.tables:
            for trigger in ("append_only", "in_turn"):
                connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}_{trigger} ON {name}")
    elif connection.dialect.name == "sqlite":
        for (name,) in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").all():
            connection.exec_driver_sql(f'DROP TRIGGER "{name}"')


def copy_rows(source: Connection, target: Connection) -> None:
    """All rows of a ledger, as they are, into new tables in another database."""
    metadata.create_all(target, checkfirst=False)
    rows = source.execution_options(yield_per=COPIED)
    for table in metadata.sorted_tables:
        for part in rows.execute(select(table).order_by(*table.primary_key)).mappings().partitions():
            target.execute(insert(table), [dict(row) for row in part])
    guard(target)
