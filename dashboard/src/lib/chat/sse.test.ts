import { expect, test } from "vitest";

import { SseReader } from "./sse";

const TEXT = 'id: 1\ndata: {"a":1}\n\n: waiting\n\nevent: shoal.status\r\ndata: one\r\ndata:two\r\n\r\ndata\n\nid: 7\n\n';

test("reads events, comments and every line end", () => {
  expect(new SseReader().push(TEXT)).toEqual([
    { name: "message", data: '{"a":1}', id: "1" },
    { name: "shoal.status", data: "one\ntwo", id: "1" },
    { name: "message", data: "", id: "1" },
  ]);
});

test("does not care where the pieces part", () => {
  const whole = new SseReader().push(TEXT);
  for (let size = 1; size < TEXT.length; size += 1) {
    const reader = new SseReader();
    const events = [];
    for (let at = 0; at < TEXT.length; at += size) events.push(...reader.push(TEXT.slice(at, at + size)));
    expect(events).toEqual(whole);
  }
});

test("an event without its empty line is none", () => {
  const reader = new SseReader();
  expect(reader.push("data: half")).toEqual([]);
  expect(reader.push("\n")).toEqual([]);
  expect(reader.push("\n")).toHaveLength(1);
});

test("a byte order mark and a NUL in an id count for nothing", () => {
  expect(new SseReader().push("\ufeffid: 4\0\ndata: x\n\n")).toEqual([{ name: "message", data: "x", id: null }]);
});
