import { expect, test } from "vitest";

import { newestLeaf, path, sibling, siblings } from "./tree";
import type { Message, Role } from "./types";

let clock = 0;
function message(id: string, parent: string | null, role: Role): Message {
  return { id, parent, role, text: id, created_ms: clock++, meta: { state: "done" } };
}

// Two answers to the first question; the second question was edited once.
const all = [
  message("q1", null, "user"),
  message("a1", "q1", "assistant"),
  message("a2", "q1", "assistant"),
  message("q2", "a1", "user"),
  message("q2b", "a1", "user"),
  message("b1", "q2", "assistant"),
];
const ids = (messages: Message[]): string[] => messages.map(({ id }) => id);
const by = (id: string): Message => all.find((message) => message.id === id) as Message;

test("shows the way to the selected message", () => {
  expect(ids(path(all, "b1"))).toEqual(["q1", "a1", "q2", "b1"]);
  expect(ids(path(all, "a2"))).toEqual(["q1", "a2"]);
});

test("shows the newest branch where the selected message is unknown", () => {
  expect(ids(path(all, "nowhere"))).toEqual(["q1", "a2"]);
  expect(ids(path(all, null))).toEqual(["q1", "a2"]);
  expect(path([], null)).toEqual([]);
});

test("a circle ends", () => {
  const circle = [message("x", "y", "user"), message("y", "x", "user")];
  expect(path(circle, "x")).toHaveLength(2);
  expect(newestLeaf(circle, "x")).toBeTypeOf("string");
});

test("knows the branches beside a message", () => {
  expect(ids(siblings(all, by("a2")))).toEqual(["a1", "a2"]);
  expect(sibling(all, by("a1"), 1)?.id).toBe("a2");
  expect(sibling(all, by("a1"), -1)).toBeNull();
  expect(sibling(all, by("q1"), 1)).toBeNull();
});

test("a switch goes to the newest leaf below", () => {
  expect(newestLeaf(all, "a1")).toBe("q2b");
  expect(newestLeaf(all, "q2")).toBe("b1");
});
