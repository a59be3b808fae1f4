import { expect, test } from "vitest";

import { byDay } from "./days";

const now = new Date(2026, 2, 30, 9, 0).getTime();
const at = (month: number, day: number, hour = 12): { changed_ms: number } => ({ changed_ms: new Date(2026, month, day, hour).getTime() });

test("chats come by day, week and month", () => {
  // The clocks changed on the 29th in Europe: days are still days.
  const groups = byDay([at(2, 30, 23), at(2, 30, 0), at(2, 29, 23), at(2, 24), at(2, 23), at(2, 1), at(1, 27)], now);
  expect(groups.map(({ key, items }) => `${key} ${items.length}`)).toEqual(["today 2", "yesterday 1", "week 1", "2026-03-01 2", "2026-02-01 1"]);
});

test("a clock that went backwards makes no second group", () => {
  expect(byDay([at(2, 30), at(2, 29), at(2, 30)], now).map(({ key }) => key)).toEqual(["today", "yesterday"]);
  expect(byDay([], now)).toEqual([]);
});
