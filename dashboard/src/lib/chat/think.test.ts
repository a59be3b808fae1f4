import { expect, test } from "vitest";

import { parts, withoutThoughts } from "./think";

const kinds = (answer: string, isWhole = true): string[] => parts(answer, isWhole).map(({ kind, text }) => `${kind}:${text}`);

test("parts thoughts from the answer", () => {
  expect(kinds("<think>\nhm\n</think>\n\nYes.")).toEqual(["thought:hm", "text:Yes."]);
  expect(kinds("<thinking>a</thinking>b\n<think>c</think>d")).toEqual(["thought:a", "text:b\n", "thought:c", "text:d"]);
});

test("a thought is open until it is closed", () => {
  expect(parts("<think>so f", false)).toEqual([{ kind: "thought", text: "so f", isOpen: true }]);
  expect(parts("<think>so f", true)).toEqual([{ kind: "thought", text: "so f", isOpen: false }]);
});

test("half a mark is not shown while more may come", () => {
  expect(kinds("<thi", false)).toEqual([]);
  expect(kinds("<think>a</thi", false)).toEqual(["thought:a"]);
  expect(kinds("a <", true)).toEqual(["text:a <"]);
});

test("an empty thought is none", () => {
  expect(kinds("<think>\n\n</think>\n\nYes.")).toEqual(["text:Yes."]);
});

test("a thought whose beginning stood in the prompt", () => {
  expect(kinds("hm, well\n</think>\n\nYes.")).toEqual(["thought:hm, well", "text:Yes."]);
});

test("an answer about the marks stays as it is", () => {
  expect(kinds("Models write `<think>` first, then `</think>`.")).toEqual(["text:Models write `<think>` first, then `</think>`."]);
  expect(kinds("It ends with `</think>`.")).toEqual(["text:It ends with `</think>`."]);
});

test("what goes back to the model holds no thoughts", () => {
  expect(withoutThoughts("<think>x</think>\n\nYes. ")).toBe("Yes.");
});
