import { expect, test } from "vitest";

import { ofPage, report, sorted, verdict, type Check, type State, type Way } from "./checks";

const well: Way = { isOpen: true, tookMs: 12, aheadMs: -900, hostname: "127.0.0.1", isSecure: true };
const states = (way: Partial<Way>): State[] => ofPage({ ...well, ...way }).map((it) => it.state);
const check = (id: string, state: State): Check => ({ id, title: id, state, found: `found ${id}`, what_to_do: state === "ok" ? "" : `do ${id}` });

test("a page that is well says so of everything", () => {
  expect(states({})).toEqual(["ok", "ok", "ok", "ok"]);
  expect(verdict(ofPage(well)).state).toBe("ok");
});

test("each trouble of the way is one of its own", () => {
  expect(states({ isOpen: false })[0]).toBe("problem");
  expect(states({ tookMs: 4000 })[1]).toBe("warning");
  expect(states({ tookMs: null })[1]).toBe("problem");
  expect(states({ aheadMs: -120_000 })[2]).toBe("warning");
  expect(states({ aheadMs: null })[2]).toBe("skipped");
  expect(states({ hostname: "192.168.1.7", isSecure: false })[3]).toBe("warning");
  expect(states({ hostname: "127.0.0.1.evil.example", isSecure: false })[3]).toBe("warning");
  expect(states({ hostname: "shoal.example", isSecure: true })[3]).toBe("ok");
});

test("the worst stands first", () => {
  const all = [check("a", "ok"), check("b", "skipped"), check("c", "problem"), check("d", "warning"), check("e", "problem")];
  expect(sorted(all).map((it) => it.id)).toEqual(["c", "e", "d", "a", "b"]);
  expect(verdict(all)).toEqual({ text: "2 things are wrong, one is worth a look.", state: "problem" });
  expect(verdict([check("d", "warning")])).toEqual({ text: "One is worth a look.", state: "warning" });
});

test("a report holds what was found and what to do", () => {
  const text = report([check("a", "ok"), check("c", "problem")], "noon", "0.1.0");
  expect(text).toContain("[wrong] c\n    found c\n    What to do: do c");
  expect(text.indexOf("[wrong]")).toBeLessThan(text.indexOf("[well]"));
});
