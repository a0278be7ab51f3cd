"""What is in the broker's file: every SQL statement, behind typed methods of one transaction each.

Nothing here waits, rings or knows kombu. Methods that make messages available return the doorbells of
those who may want them.
"""

# ruff: noqa: S608 - statements are put together from constants of this module; values are always bound

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .clock import Clock
from .sqlite_file import Row, SqliteFile

SCHEMA_VERSION = 1

SCHEMA = (
    """CREATE TABLE exchange (
        name TEXT PRIMARY KEY,
        type TEXT NOT NULL
    ) WITHOUT ROWID""",
    # `owner` is the session that an exclusive queue lives and dies with. Times are of the wall clock.
    """CREATE TABLE queue (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        owner INTEGER,
        auto_delete INTEGER NOT NULL DEFAULT 0,
        expires_s REAL,
        message_ttl_s REAL,
        used_at REAL NOT NULL
    )""",
    """CREATE TABLE binding (
        exchange TEXT NOT NULL,
        routing_key TEXT NOT NULL,
        pattern TEXT NOT NULL,
        queue INTEGER NOT NULL,
        PRIMARY KEY (exchange, routing_key, queue)
    ) WITHOUT ROWID""",
    "CREATE INDEX binding_queue ON binding (queue)",
    # `until` is a moment of the lease clock and means something only within its boot.
    """CREATE TABLE session (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        boot TEXT NOT NULL,
        lease_s REAL NOT NULL,
        until REAL NOT NULL,
        bell TEXT,
        pid INTEGER NOT NULL
    )""",
    """CREATE TABLE consumer (
        queue INTEGER NOT NULL,
        session INTEGER NOT NULL,
        tag TEXT NOT NULL,
        PRIMARY KEY (queue, session, tag)
    ) WITHOUT ROWID""",
    "CREATE INDEX consumer_session ON consumer (session)",
    # AUTOINCREMENT: an id is never used twice, so (id, delivery) names one delivery for ever.
    """CREATE TABLE message (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        queue INTEGER NOT NULL,
        priority INTEGER NOT NULL,
        expires_at REAL,
        owner INTEGER,
        delivery INTEGER NOT NULL DEFAULT 0,
        envelope TEXT NOT NULL,
        body
    )""",
    "CREATE INDEX message_ready ON message (queue, priority DESC, id) WHERE owner IS NULL",
    "CREATE INDEX message_held ON message (owner) WHERE owner IS NOT NULL",
    "CREATE INDEX message_mortal ON message (expires_at) WHERE expires_at IS NOT NULL",
)

_QUEUE = "(SELECT id FROM queue WHERE name = ?)"
_BELLS = (
    "(SELECT group_concat(session.bell) FROM consumer JOIN session ON session.id = consumer.session"
    " WHERE consumer.queue = message.queue)"
)

# The queue's time to live and the message's own: the sooner one. 9e99 stands for never.
_PUT = f"""
    INSERT INTO message (queue, priority, expires_at, envelope, body)
    SELECT id, ?1,
           nullif(min(coalesce(?2, 9e99), coalesce(message_ttl_s + ?3, 9e99)), 9e99),
           ?4, ?5
    FROM queue WHERE name = ?6
    RETURNING {_BELLS}"""

_NEXT = f"""
    (SELECT id FROM message
     WHERE queue = {_QUEUE} AND owner IS NULL AND (expires_at IS NULL OR expires_at > ?)
     ORDER BY priority DESC, id LIMIT 1)"""

# A session that others took for dead has no row any more and gets nothing.
_CLAIM = f"""
    UPDATE message SET owner = ?, delivery = delivery + 1
    WHERE id = {_NEXT} AND EXISTS (SELECT 1 FROM session WHERE id = ?)
    RETURNING id, delivery, envelope, body"""

_TAKE = f"DELETE FROM message WHERE id = {_NEXT} RETURNING id, delivery + 1, envelope, body"

_MINE = "id = ? AND owner = ? AND delivery = ?"
_ACK = f"DELETE FROM message WHERE {_MINE}"
_REQUEUE = f"UPDATE message SET owner = NULL WHERE {_MINE} RETURNING {_BELLS}"

# Within one boot the clock tells. Where boots have no names, a lease that ends later than any given now
# could end was given in an earlier one.
_LAPSED = "(boot <> ?1 OR until <= ?2 OR (boot = '' AND until > ?2 + lease_s))"

#: Free pages are given back to the file system from this many on; a step takes a few milliseconds.
_VACUUM_FROM_PAGES = 256
_VACUUM_STEP_PAGES = 512

Bells = frozenset[str]
NOBODY: Bells = frozenset()


@dataclass(frozen=True, slots=True)
class Post:
    """A message on its way into a queue.

    Attributes:
        priority: 0 to 9, 9 the most urgent.
        expires_at: when it is worthless, in seconds since 1970; None: never.
        create: make a queue that does not exist; otherwise the message is dropped, as when a bound queue
            has just gone.
    """

    queue: str
    priority: int
    envelope: str
    body: str | bytes | None
    expires_at: float | None = None
    create: bool = True


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message in a session's hand.

    Attributes:
        count: how often it was given out, this time included.
    """

    id: int
    count: int
    owner: int
    envelope: str
    body: str | bytes | None

    @property
    def redelivered(self) -> bool:
        return self.count > 1


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """How a queue is declared.

    Attributes:
        owner: the session it is exclusive to: it goes when that session goes. None: not exclusive.
        auto_delete: it goes with its last consumer.
        expires_s: it goes after this long without a consumer or a declaration. None: never.
        message_ttl_s: how long its messages are worth anything. None: for ever.
    """

    owner: int | None = None
    auto_delete: bool = False
    expires_s: float | None = None
    message_ttl_s: float | None = None


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another session, as a sweep sees it."""

    id: int
    bell: str | None
    lapsed: bool


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep freed, dropped, and whom it concerns."""

    released: int = 0
    expired: int = 0
    bells: Bells = NOBODY


class Database:
    """Queues, messages, leases and bindings. Safe between threads and processes.

    Args:
        file: where it is.
        clock: what time it is.
    """

    def __init__(self, file: SqliteFile, clock: Clock) -> None:
        self.file = file
        self.clock = clock

    @classmethod
    def at(cls, path: str, clock: Clock, *, full_sync: bool = False, busy_timeout_s: float = 10.0) -> Database:
        """The database in the file `path`."""
        file = SqliteFile(
            path, schema=SCHEMA, version=SCHEMA_VERSION, full_sync=full_sync, busy_timeout_s=busy_timeout_s
        )
        return cls(file, clock)

    # -- messages --------------------------------------------------------------------------------------

    def put(self, posts: Sequence[Post]) -> Bells:
        """Accept messages, all or none. Returns the doorbells of their queues' consumers."""
        if len(posts) == 1 and (rows := self._insert(posts[0])):
            return _bells(rows)
        rows: list[Row] = []
        with self.file.transaction():
            for post in posts:
                inserted = self._insert(post)
                if not inserted and post.create:
                    self._create_plain_queue(post.queue)
                    inserted = self._insert(post)
                rows += inserted
        return _bells(rows)

    def claim(self, queue: str, session: int) -> Delivery | None:
        """Lend the most urgent, then oldest, message to a session; None if there is none for it."""
        rows = self.file.run(_CLAIM, (session, queue, self.clock.wall(), session))
        return Delivery(rows[0][0], rows[0][1], session, rows[0][2], rows[0][3]) if rows else None

    def take(self, queue: str) -> Delivery | None:
        """Hand out and delete the next message: for consumers that do not acknowledge."""
        rows = self.file.run(_TAKE, (queue, self.clock.wall()))
        return Delivery(rows[0][0], rows[0][1], 0, rows[0][2], rows[0][3]) if rows else None

    def ack(self, delivery: Delivery) -> bool:
        """Delete a message. False if it was no longer this delivery's: then it stays."""
        return self.file.change(_ACK, (delivery.id, delivery.owner, delivery.count)) == 1

    def requeue(self, deliveries: Collection[Delivery]) -> Bells:
        """Put messages back at their old places; those that others got meanwhile are left alone."""
        rows: list[Row] = []
        with self.file.transaction():
            for delivery in deliveries:
                rows += self.file.run(_REQUEUE, (delivery.id, delivery.owner, delivery.count))
        return _bells(rows)

    # -- queues ----------------------------------------------------------------------------------------

    def declare_queue(self, name: str, options: QueueOptions) -> None:
        """Make a queue, or change its options. An exclusive one belongs to whoever declared it last."""
        with self.file.transaction():
            self._create_queue(name, options)

    def has_queue(self, name: str) -> bool:
        return bool(self.file.run("SELECT 1 FROM queue WHERE name = ?", (name,)))

    def size(self, queue: str) -> int:
        """Messages that wait, without those in a session's hand."""
        return int(
            self.file.run(f"SELECT count(*) FROM message WHERE queue = {_QUEUE} AND owner IS NULL", (queue,))[0][0]
        )

    def consumer_count(self, queue: str) -> int:
        return int(self.file.run(f"SELECT count(*) FROM consumer WHERE queue = {_QUEUE}", (queue,))[0][0])

    def purge(self, queue: str) -> int:
        """Delete the waiting messages; returns how many."""
        return self.file.change(f"DELETE FROM message WHERE queue = {_QUEUE} AND owner IS NULL", (queue,))

    def delete_queue(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> bool:
        """Delete a queue with its messages and bindings. False if it is not there or a condition fails."""
        with self.file.transaction():
            rows = self.file.run("SELECT id FROM queue WHERE name = ?", (name,))
            if not rows or (if_unused and self.consumer_count(name)) or (if_empty and self.size(name)):
                return False
            self._drop_queue(rows[0][0])
        return True

    # -- exchanges -------------------------------------------------------------------------------------

    def declare_exchange(self, name: str, type_: str) -> str:
        """Make an exchange; returns its type, which is another one if it was there already."""
        self.file.run("INSERT INTO exchange (name, type) VALUES (?, ?) ON CONFLICT DO NOTHING", (name, type_))
        return self.exchange_type(name) or type_

    def exchange_type(self, name: str) -> str | None:
        rows = self.file.run("SELECT type FROM exchange WHERE name = ?", (name,))
        return str(rows[0][0]) if rows else None

    def exchanges(self) -> list[str]:
        return [str(name) for (name,) in self.file.run("SELECT name FROM exchange")]

    def delete_exchange(self, name: str) -> None:
        """Delete an exchange and its bindings; the queues stay."""
        with self.file.transaction():
            self.file.run("DELETE FROM binding WHERE exchange = ?", (name,))
            self.file.run("DELETE FROM exchange WHERE name = ?", (name,))

    def bind(self, queue: str, exchange: str, routing_key: str, pattern: str) -> bool:
        """Bind a queue; `pattern` is the exchange type's compiled form of the key. False: no such queue."""
        return bool(
            self.file.run(
                "INSERT INTO binding (exchange, routing_key, pattern, queue) SELECT ?, ?, ?, id FROM queue"
                " WHERE name = ? ON CONFLICT DO UPDATE SET pattern = excluded.pattern RETURNING 1",
                (exchange, routing_key, pattern, queue),
            )
        )

    def unbind(self, queue: str, exchange: str, routing_key: str) -> None:
        self.file.run(
            f"DELETE FROM binding WHERE exchange = ? AND routing_key = ? AND queue = {_QUEUE}",
            (exchange, routing_key, queue),
        )

    def bindings(self, exchange: str) -> list[tuple[str, str, str]]:
        """(routing key, pattern, queue name) of an exchange."""
        return [
            (str(key), str(pattern), str(queue))
            for key, pattern, queue in self.file.run(
                "SELECT routing_key, pattern, queue.name FROM binding JOIN queue ON queue.id = binding.queue"
                " WHERE exchange = ?",
                (exchange,),
            )
        ]

    def routes(self, exchange: str) -> tuple[str | None, list[tuple[str, str, str]]]:
        """An exchange's type (None if it was never declared) and its bindings, in one look."""
        rows = self.file.run(
            "SELECT exchange.type, binding.routing_key, binding.pattern, queue.name FROM exchange"
            " LEFT JOIN binding ON binding.exchange = exchange.name LEFT JOIN queue ON queue.id = binding.queue"
            " WHERE exchange.name = ?",
            (exchange,),
        )
        if not rows:
            return None, self.bindings(exchange)
        return str(rows[0][0]), [(key, pattern, queue) for _, key, pattern, queue in rows if queue is not None]

    # -- sessions --------------------------------------------------------------------------------------

    def enter(self, *, lease_s: float, bell: str | None, pid: int) -> int:
        """Begin a session, which may hold messages until its lease runs out. Returns its id."""
        return int(
            self.file.run(
                "INSERT INTO session (boot, lease_s, until, bell, pid) VALUES (?, ?, ?, ?, ?) RETURNING id",
                (self.clock.boot, lease_s, self.clock.now() + lease_s, bell, pid),
            )[0][0]
        )

    def renew(self, session: int) -> bool:
        """Renew a session's lease. False if it was taken for dead, and is."""
        return self.file.change("UPDATE session SET until = ? + lease_s WHERE id = ?", (self.clock.now(), session)) == 1

    def consume(self, session: int, queue: str, tag: str) -> None:
        """Note a consumer, so that it is rung. The queue is made if it is not there."""
        note = (
            "INSERT OR IGNORE INTO consumer (queue, session, tag) SELECT id, ?, ? FROM queue WHERE name = ? RETURNING 1"
        )
        with self.file.transaction():
            if not self.file.run(note, (session, tag, queue)):
                self._create_plain_queue(queue)
                self.file.run(note, (session, tag, queue))

    def cancel(self, session: int, tag: str) -> None:
        """Forget a consumer. An auto-delete queue goes with its last one."""
        with self.file.transaction():
            self._drop_unused(self.file.run("DELETE FROM consumer WHERE session = ? AND tag = ? RETURNING queue",
                                            (session, tag)))  # fmt: skip

    def bury(self, sessions: Collection[int]) -> Swept:
        """End sessions: what they hold is free again at once, what was theirs alone is deleted."""
        rows: list[Row] = []
        with self.file.transaction():
            for session in sessions:
                queues = self.file.run("DELETE FROM consumer WHERE session = ? RETURNING queue", (session,))
                self.file.run("DELETE FROM session WHERE id = ?", (session,))
                rows += self.file.run(f"UPDATE message SET owner = NULL WHERE owner = ? RETURNING {_BELLS}", (session,))
                for (queue,) in self.file.run("SELECT id FROM queue WHERE owner = ?", (session,)):
                    self._drop_queue(queue)
                self._drop_unused(queues)
        return Swept(released=len(rows), bells=_bells(rows))

    def neighbours(self, session: int) -> list[Neighbour]:
        """All other sessions."""
        return [
            Neighbour(id_, bell, bool(lapsed))
            for id_, bell, lapsed in self.file.run(
                f"SELECT id, bell, {_LAPSED} FROM session WHERE id <> ?3",
                (self.clock.boot, self.clock.now(), session),
            )
        ]

    # -- upkeep ----------------------------------------------------------------------------------------

    def expire(self) -> int:
        """Delete waiting messages and unused queues whose time is over; returns how many messages."""
        wall = self.clock.wall()
        expired = 0
        # Looked at first: a statement that would change nothing still takes the write lock.
        if self.file.run("SELECT 1 FROM message WHERE expires_at <= ? AND owner IS NULL LIMIT 1", (wall,)):
            expired = self.file.change("DELETE FROM message WHERE expires_at <= ? AND owner IS NULL", (wall,))
        unused = (
            "SELECT id FROM queue WHERE expires_s IS NOT NULL AND used_at + expires_s <= ?"
            " AND NOT EXISTS (SELECT 1 FROM consumer WHERE consumer.queue = queue.id)"
        )
        if self.file.run(unused, (wall,)):
            with self.file.transaction():
                for (queue,) in self.file.run(unused, (wall,)):
                    self._drop_queue(queue)
        return expired

    def vacuum(self) -> int:
        """Give a step of free pages back to the file system, if there are many; returns how many."""
        free = int(self.file.run("PRAGMA freelist_count")[0][0])
        if free < _VACUUM_FROM_PAGES:
            return 0
        self.file.run(f"PRAGMA incremental_vacuum({_VACUUM_STEP_PAGES})")
        return min(free, _VACUUM_STEP_PAGES)

    # -- inside ----------------------------------------------------------------------------------------

    def _insert(self, post: Post) -> list[Row]:
        return self.file.run(
            _PUT, (post.priority, post.expires_at, self.clock.wall(), post.envelope, post.body, post.queue)
        )

    def _create_queue(self, name: str, options: QueueOptions) -> None:
        self.file.run(
            "INSERT INTO queue (name, owner, auto_delete, expires_s, message_ttl_s, used_at)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET owner = excluded.owner,"
            " auto_delete = excluded.auto_delete, expires_s = excluded.expires_s,"
            " message_ttl_s = excluded.message_ttl_s, used_at = excluded.used_at",
            (
                name,
                options.owner,
                int(options.auto_delete),
                options.expires_s,
                options.message_ttl_s,
                self.clock.wall(),
            ),
        )

    def _create_plain_queue(self, name: str) -> None:
        self.file.run(
            "INSERT INTO queue (name, used_at) VALUES (?, ?) ON CONFLICT DO NOTHING", (name, self.clock.wall())
        )

    def _drop_unused(self, queues: list[Row]) -> None:
        for (queue,) in queues:
            self.file.run("UPDATE queue SET used_at = ? WHERE id = ?", (self.clock.wall(), queue))
            for (unused,) in self.file.run(
                "SELECT id FROM queue WHERE id = ? AND auto_delete"
                " AND NOT EXISTS (SELECT 1 FROM consumer WHERE consumer.queue = queue.id)",
                (queue,),
            ):
                self._drop_queue(unused)

    def _drop_queue(self, queue: int) -> None:
        # Two statements, because each of the two partial indexes serves one of them.
        self.file.run("DELETE FROM message WHERE queue = ? AND owner IS NULL", (queue,))
        self.file.run("DELETE FROM message WHERE queue = ? AND owner IS NOT NULL", (queue,))
        self.file.run("DELETE FROM binding WHERE queue = ?", (queue,))
        self.file.run("DELETE FROM consumer WHERE queue = ?", (queue,))
        self.file.run("DELETE FROM queue WHERE id = ?", (queue,))


def _bells(rows: list[Row]) -> Bells:
    if not rows or (len(rows) == 1 and rows[0][0] is None):
        return NOBODY
    return frozenset(bell for (bells,) in rows if bells for bell in str(bells).split(","))
