"""The rules of `docs/orders.md` once more, slow and obvious: plain Python, one order at a time, nothing shared with btclab.

Only the records (Order, Bar, Costs, Market, Margin) are btclab's. Amounts are reckoned in the same order as the engine does, so
that the two are compared to the last digit. The strategies below draw orders and candles with round numbers, so that prices meet.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

from hypothesis import strategies as st

from btclab.records import Bar, Costs, Margin, Market, Order

HOUR = 3_600_000_000_000
YEAR = 365 * 24 * HOUR
NAN = math.nan


class Exchange:
    """One account. `walk(bar)`, then `decide(target)` and `submit(order)` at its close."""

    def __init__(self, cash, costs, market=None, latency=0, band=None, margin=None):
        self.cash, self.position, self.costs, self.market = cash, 0.0, costs, market or Market()
        self.latency, self.band, self.margin, self.interest = latency, band, margin, 0.0
        self.target, self.steered, self.bar = 0.0, True, None
        self.book, self.fills, self.events = [], [], []

    # At the close

    def decide(self, target):
        wanted = self.target if target is None else target
        if wanted == self.target:
            worth = self.cash + self.position * self.bar.close
            busy = any(order.kind == "target" for order in self.book)
            if self.band is None or not self.steered or busy or worth <= 0:
                return
            if abs(self.position * self.bar.close / worth - wanted) <= self.band:
                return
        self.target, self.steered = wanted, True
        self.put(Order(self.bar.timestamp, wanted, f"target-{self.bar.timestamp}"))

    def submit(self, order):
        rule = self.refusal(order)
        if rule:
            self.say(order.id, "refused", rule)
            return
        if order.kind == "target":
            self.steered = False
        self.put(order)
        self.say(order.id, "accepted")

    def refusal(self, order):  # noqa: PLR0911 (one rule after the other)
        close = self.bar.close
        if order.parent:
            return "" if any(one.id == order.parent for one in self.book) else "unknown_order"
        if order.kind == "target":
            return ""
        price = {"market": close, "trailing_stop": close, "limit": order.limit, "stop_limit": order.limit}.get(
            order.kind, order.stop
        )
        quantity = self.rounded(order.quantity)
        if quantity < self.market.min_quantity * (1 - 1e-9):
            return "min_quantity"
        if quantity * price < self.market.min_value * (1 - 1e-9):
            return "min_value"
        if quantity == 0:
            return "min_quantity"
        falling = (order.kind == "take_profit") == (order.side == "buy")  # it waits for a lower price
        if order.kind in ("stop", "stop_limit", "take_profit") and (
            close <= order.stop if falling else close >= order.stop
        ):
            return "wrong_side"
        slip = 0.0 if order.kind in ("limit", "stop_limit") else self.costs.slippage_bps / 10_000
        if order.side == "sell":
            most = self.most_to_sell(price * (1 - slip), self.costs.fee_bps / 10_000)
            short = "insufficient_margin" if self.margin else "insufficient_position"
            return short if order.quantity > most * (1 + 1e-9) else ""
        if order.quantity <= -self.position:
            return ""  # it buys back
        need = order.quantity * (price * (1 + slip)) * (1 + self.costs.fee_bps / 10_000)
        return "insufficient_funds" if need > self.cash * (1 + 1e-9) else ""

    def most_to_sell(self, price, fee):
        if not self.margin:
            return self.position
        held = self.position * price
        return max(self.position, (held + (self.cash + held)) / (1 + fee) / price)

    def put(self, order):
        child, target = bool(order.parent), order.kind == "target"
        quantity = self.rounded(order.quantity)
        self.book.append(
            SimpleNamespace(
                **{name: getattr(order, name) for name in Order.__dataclass_fields__ if name != "quantity"},
                quantity=quantity,
                left=0.0 if child or target else quantity,
                granted=0.0,
                child=child,
                best=None,
                wait=self.latency,
                touched=False,
                rested=False,
                late=False,  # it became active within the range of this bar
                guards=False,
                born=None,
            )
        )

    def cancel(self, order_id):
        self.end(next(one for one in self.book if one.id == order_id), "cancelled", "user")
        self.orphans()

    def replace(self, order_id, order):
        rule = self.refusal(order)
        if rule:
            self.say(order.id, "refused", rule)
            return
        old = next(one for one in self.book if one.id == order_id)
        self.steered = self.steered and order.kind != "target"
        self.put(order)
        where = self.book.index(old)
        self.book[where] = self.book.pop()
        self.say(old.id, "replaced")
        for one in self.book:
            one.parent = order.id if one.parent == old.id else one.parent
        self.orphans()
        self.say(order.id, "accepted")

    # A bar

    def walk(self, bar):  # noqa: PLR0912 (one rule after the other)
        before, self.bar = self.bar, bar
        cap = self.costs.participation
        self.room = math.inf if cap is None else self.rounded(cap * bar.volume)
        if cap is None and self.costs.impact_bps > 0 and bar.volume == 0:
            self.room = 0.0
        if self.position < 0:
            paid = -self.position * before.close * (self.margin.interest_pct / 100 / YEAR)
            paid *= bar.timestamp - before.timestamp
            self.cash -= paid
            self.interest += paid
            self.margin_call(bar.open, opening=True)
        here = []
        for order in list(self.book):
            order.late = False
            if order.lifetime == "gtd" and bar.timestamp >= order.expires:
                self.end(order, "expired")
            if order.wait > 0:
                order.wait -= 1
                continue
            if order in self.book:
                here.append(order)
                if order.kind == "target":  # the latest target is the one that counts
                    for one in self.book[: self.book.index(order)]:
                        if one.kind == "target":
                            self.end(one, "cancelled")
        for order in here:
            if self.can_trade(order):
                self.at_open(order)
        for beyond in (False, True):  # first what lies on the way to a margin call
            for order in here:
                if self.can_trade(order) and not order.late and self.waits_as_stop(order):
                    if not beyond and order.side == "buy" and self.level(order) > self.call_level():
                        continue
                    extreme = bar.low if order.side == "sell" else bar.high
                    if self.beyond_stop(order, extreme):
                        self.touch_unless_called(order)
        self.margin_call(bar.high)
        for order in here:
            if self.can_trade(order) and not order.late and self.waits_as_limit(order):
                extreme = bar.high if order.side == "sell" else bar.low
                if self.beyond_limit(order, extreme):
                    if order.kind == "take_profit":
                        self.touch(order, order.stop, inside=True)
                    else:
                        self.trade(order, order.limit, maker=True, inside=True)
        for order in here:
            if self.can_trade(order) and order.late and self.waits_as_stop(order):
                if order.best is None:
                    order.best = order.born
                extreme = bar.low if order.side == "sell" else bar.high
                if self.beyond_stop(order, order.born):
                    self.touch(order, order.born, inside=True)
                elif self.beyond_stop(order, extreme):
                    self.touch_unless_called(order)
        self.margin_call(bar.high)
        for order in here:
            if self.can_trade(order):
                self.at_close(order)
        self.orphans()

    def touch_unless_called(self, order):
        if order.side == "buy" and self.level(order) > self.call_level():
            self.margin_call(self.bar.high)
        else:
            self.touch(order, self.level(order), inside=True)

    def call_level(self):
        if self.position >= 0:
            return math.inf
        return self.cash / ((1 + self.margin.maintenance) * -self.position)

    def margin_call(self, high, opening=False):
        """The price has risen so far that equity is `maintenance` × what is owed: the lender buys it back, ends all orders."""
        if self.position >= 0:
            return
        owed, level = -self.position, self.call_level()
        if high < level:
            return
        price = max(level, self.bar.open)
        name = f"margin-call-{self.bar.timestamp}"
        self.say(name, "triggered", "margin_call")
        kept = [one.id for one in self.book if one.kind == "target" and one.exposure >= 0 and one.wait == 0 and opening]
        for order in list(self.book):
            if order.id not in kept and order.parent not in kept:
                self.end(order, "cancelled", "margin_call")
        price = price * (1 + self.costs.slippage_bps / 10_000)
        fee = owed * price * self.costs.fee_bps / 10_000
        left = self.cash - owed * price - fee
        self.cash = 0.0 if abs(left) < 1e-12 * self.cash else left
        self.position, self.steered = 0.0, False
        self.fills.append((self.bar.timestamp, name, "margin_call", "buy", owed, price, fee, False))
        self.say(name, "done")

    def can_trade(self, order):
        return order in self.book and (not order.child or order.left > 0)

    def at_open(self, order):
        price = self.bar.open
        if order.kind == "trailing_stop":
            best = max if order.side == "sell" else min
            order.best = price if order.best is None else best(order.best, price)
        if order.kind in ("target", "market") or (order.touched and order.kind != "stop_limit"):
            self.trade(order, price)
        elif self.waits_as_stop(order):
            if self.beyond_stop(order, price):
                self.touch(order, price)
        elif self.beyond_limit(order, price):
            if order.kind == "take_profit":
                self.touch(order, price)
            else:
                self.trade(order, order.limit if order.rested else price, maker=order.rested)

    def touch(self, order, price, inside=False):
        order.touched = True
        self.say(order.id, "triggered")
        if order.kind == "stop_limit" and not self.beyond_limit(order, price):
            order.late = inside
        else:
            self.trade(order, price, inside=inside)

    def at_close(self, order):
        if order.kind == "trailing_stop":
            seen = self.bar.close if order.late else self.bar.high if order.side == "sell" else self.bar.low
            order.best = (max if order.side == "sell" else min)(order.best, seen)
        if order.late and order.child and not order.rested:
            return
        order.rested = True
        if order.lifetime == "ioc":
            self.end(order, "cancelled", "ioc")

    def orphans(self):
        for order in list(self.book):
            if order.parent and order.granted == 0 and not any(one.id == order.parent for one in self.book):
                self.end(order, "cancelled", "parent")

    # Prices

    @staticmethod
    def waits_as_stop(order):
        return order.kind in ("stop", "trailing_stop", "stop_limit") and not order.touched

    @staticmethod
    def waits_as_limit(order):
        return (
            order.kind == "limit"
            or (order.kind == "stop_limit" and order.touched)
            or (order.kind == "take_profit" and not order.touched)
        )

    @staticmethod
    def level(order):
        if order.kind != "trailing_stop":
            return order.stop
        return order.best * (1 - order.trail if order.side == "sell" else 1 + order.trail)

    def beyond_stop(self, order, price):
        return price <= self.level(order) if order.side == "sell" else price >= self.level(order)

    @staticmethod
    def beyond_limit(order, price):
        level = order.stop if order.kind == "take_profit" else order.limit
        return price >= level if order.side == "sell" else price <= level

    # A trade

    def trade(self, order, market_price, maker=False, inside=False):  # noqa: PLR0912 (one rule after the other)
        side = order.side
        if order.kind == "target":
            worth = self.cash + self.position * market_price
            side = "buy" if order.exposure * worth > self.position * market_price else "sell"
        bps = self.costs.fee_bps
        if maker and self.costs.maker_fee_bps is not None:
            bps = self.costs.maker_fee_bps
        slip = 0.0 if maker else self.costs.slippage_bps / 10_000
        price = self.price(order, market_price, side, slip)
        wanted = self.wanted(order, price, side, bps)
        impact = self.costs.impact_bps / 10_000
        if impact and not maker and wanted > 0 and self.room > 0:
            slip = min(0.9999, slip + impact * (min(wanted, self.room) / self.bar.volume))
            price = self.price(order, market_price, side, slip)
            wanted = self.wanted(order, price, side, bps)
        if order.kind == "target":
            if wanted <= 0:
                self.end(order, "done")
                return
            least = self.market
            rule = "min_quantity" if wanted < least.min_quantity * (1 - 1e-9) else ""
            rule = rule or ("min_value" if wanted * price < least.min_value * (1 - 1e-9) else "")
            if rule:
                self.end(order, "refused", rule)
                return
        asked, quantity = order.left, wanted if wanted <= self.room else self.whole(self.room, side)
        capped = quantity < wanted
        if quantity > 0:
            value = quantity * price
            fee = value * bps / 10_000
            if side == "buy":
                left = self.cash - value - fee
                self.cash = 0.0 if abs(left) < 1e-12 * self.cash else left
                self.position += quantity
            else:
                self.cash = self.cash + value - fee
                self.position -= quantity
            if abs(self.position) < 1e-12 * quantity:
                self.position = 0.0
            self.room -= quantity
            order.left -= quantity
            self.fills.append((self.bar.timestamp, order.id, order.kind, side, quantity, price, fee, maker))
            self.steered = self.steered and order.kind == "target"
        if order.kind == "target":
            if not capped:
                self.end(order, "done")
        elif not capped and wanted < self.rounded(asked) * (1 - 1e-9):
            short = "insufficient_margin" if self.margin and not order.guards else "insufficient_position"
            self.end(order, "cancelled", "insufficient_funds" if side == "buy" and not order.guards else short)
        elif self.rounded(order.left) <= 1e-12 * asked:
            self.end(order, "done")
        if quantity > 0:
            self.follow(order, side, quantity, market_price, inside)

    def follow(self, order, side, quantity, price, inside):
        opened = min(quantity, max(0.0, self.position if side == "buy" else -self.position))
        for one in list(self.book):
            if one is order:
                continue
            if order.group and one.group == order.group:
                self.end(one, "cancelled", "oco")
            elif order.child and one.id == order.parent:
                self.end(one, "cancelled", "child")
            elif one.child and one.parent == order.id:
                guards = self.margin and one.side != side
                more = opened if guards else quantity  # what was only closed needs no protection
                whole = one.granted + more
                more = more if math.isnan(one.quantity) else min(one.quantity, whole) - one.granted
                one.granted += more
                one.left += more
                one.guards = (one.side == "sell") == (self.position > 0) and self.position != 0
                if inside:
                    one.late, one.born = True, price
        for one in list(self.book):
            if one.guards and (self.position == 0 or (one.side == "buy") == (self.position > 0)):
                self.end(one, "cancelled", "flat")

    @staticmethod
    def price(order, market_price, side, slip):
        price = market_price * (1 + slip if side == "buy" else 1 - slip)
        if order.kind not in ("limit", "stop_limit"):
            return price
        return min(price, order.limit) if side == "buy" else max(price, order.limit)

    def wanted(self, order, price, side, bps):
        fee = bps / 10_000
        if order.kind != "target":
            if order.guards:
                most = max(0.0, -self.position if side == "buy" else self.position)
            elif side == "buy":
                most = max(self.cash / (1 + fee) / price, -self.position)
            else:
                most = self.most_to_sell(price, fee)
            return self.whole(min(order.left, most), side)
        if order.exposure == 0:
            return self.whole(abs(self.position), side)
        held = self.position * price
        missing = order.exposure * (self.cash + held) - held
        if side == "buy":
            most = self.cash / (1 + fee)
            value = most if order.exposure == 1 else min(most, missing / (1 + order.exposure * fee))
            return self.whole(max(0.0, value / price), side)
        sold = max(0.0, -missing / (1 - order.exposure * fee) / price)
        return self.whole(min(self.position, sold) if order.exposure > 0 else sold, side)

    def rounded(self, quantity):
        step = self.market.quantity_step
        if not step or math.isnan(quantity) or quantity == math.inf:
            return quantity
        return math.floor(quantity / step * (1 + 1e-15) + 1e-9) * step

    def whole(self, quantity, side):
        whole = self.rounded(quantity)
        step = self.market.quantity_step
        held = self.position if side == "sell" else -self.position
        if held > 0 and step and whole > 0 and abs(whole - held) <= 1e-14 * held + 1e-6 * step:
            return held
        return whole

    def end(self, order, event, rule=""):
        self.book.remove(order)
        if order.kind != "target" or rule or event == "replaced":
            self.say(order.id, event, rule)

    def say(self, order_id, event, rule=""):
        self.events.append((self.bar.timestamp, order_id, event, rule))

    @property
    def equity(self):
        return self.cash + self.position * self.bar.close


# Random candles and orders, on a grid of whole prices between 80 and 120 so that levels are met, jumped over and shared

level = st.integers(80, 120).map(float)


@st.composite
def bars(draw, least=4, most=14):
    """Bars an hour apart, some of them missing, with volumes between 0 and 20 BTC."""
    out, time = [], 0
    for _ in range(draw(st.integers(least, most))):
        time += HOUR * draw(st.sampled_from([1, 1, 1, 3]))
        four = sorted(draw(st.lists(level, min_size=4, max_size=4)))
        inner = four[1:3] if draw(st.booleans()) else four[2:0:-1]
        volume = draw(st.sampled_from([0.0, 0.5, 3.0, 20.0]))
        out.append(Bar(time, inner[0], four[3], four[0], inner[1], volume))
    return out


quantities = st.sampled_from([0.003, 0.5, 1.0, 2.5, 4.0, 9.0]) | st.floats(0.01, 8.0)
all_costs = st.builds(
    Costs,
    fee_bps=st.sampled_from([0.0, 10.0, 100.0]),
    slippage_bps=st.sampled_from([0.0, 5.0, 200.0]),
    maker_fee_bps=st.sampled_from([None, 0.0, 2.0]),
    impact_bps=st.sampled_from([0.0, 50.0, 20_00.0]),
    participation=st.sampled_from([None, 0.1, 0.5, 1.0]),
)
all_markets = st.builds(
    Market,
    quantity_step=st.sampled_from([0.0, 0.1, 1e-8]),
    min_quantity=st.sampled_from([0.0, 0.01]),
    min_value=st.sampled_from([0.0, 10.0]),
)


margins = st.builds(
    Margin,
    interest_pct=st.sampled_from([0.0, 10.0, 9_000.0]),
    maintenance=st.sampled_from([0.1, 0.6, 0.9]),  # with exposure -1 a call after a rise of 82, 25 or 5 %
)


@st.composite
def an_order(draw, decided, order_id, parents, short):
    """An order that is right by itself; the account may yet refuse it."""
    kind = draw(st.sampled_from(["market", "limit", "stop", "stop_limit", "take_profit", "trailing_stop", "target"]))
    if kind == "target":
        return Order(decided, draw(st.sampled_from([0.0, 0.5, 1.0, *SHORT * short])), order_id)
    parent = draw(st.sampled_from(["", "", *parents]))
    lifetime = draw(st.sampled_from(["gtc", "gtc", "gtd", "ioc"]))
    prices = {"limit": ["limit"], "stop": ["stop"], "stop_limit": ["limit", "stop"], "take_profit": ["stop"]}
    return Order(
        decided,
        id=order_id,
        kind=kind,
        side=draw(st.sampled_from(["buy", "sell"])),
        quantity=NAN if parent and draw(st.booleans()) else draw(quantities),
        trail=draw(st.sampled_from([0.02, 0.1])) if kind == "trailing_stop" else NAN,
        lifetime=lifetime,
        expires=decided + HOUR * draw(st.integers(1, 6)) if lifetime == "gtd" else 0,
        group=draw(st.sampled_from(["", "", "a", "b"])),
        parent=parent,
        **{name: draw(level) for name in prices.get(kind, [])},
    )


SHORT = (-0.3, -1.0)


@st.composite
def histories(draw, short=False):
    """Bars, the exposure wanted at each close (None: no opinion), and what is asked for there [bar]: a list of steps.

    A step is an order to place, the number of an open order to cancel, or (number, order) to replace it.
    """
    path, wanted, asked, ids = draw(bars()), [], [], 0
    for bar in path:
        target = draw(st.sampled_from([None, None, None, 0.0, 0.5, 0.8, 1.0, *SHORT * short]))
        wanted.append(target)
        parents, steps = [f"target-{bar.timestamp}"] if target else [], []
        for _ in range(draw(st.integers(0, 3))):
            order = draw(an_order(bar.timestamp, f"o{ids}", parents, short))
            parents.append(order.id)
            ids += 1
            number = draw(st.integers(0, 3))
            steps.append(draw(st.sampled_from([order, order, order, order, number, (number, order)])))
        asked.append(steps)
    return path, wanted, asked


# The terms on which the account sells short (None: it does not), and a history
accounts = st.tuples(st.none(), histories()) | st.tuples(margins, histories(short=True))
