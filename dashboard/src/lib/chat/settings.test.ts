import { expect, test } from "vitest";

import { request, setParameters } from "./prompt";
import { read, typed } from "./settings";
import type { Message } from "./types";

const empty = typed({});

test("what is empty is left to the node", () => {
  expect(read(empty, { temperature: 1 })).toEqual({ parameters: {}, wrong: {} });
});

test("what is typed comes back as it was", () => {
  const parameters = { temperature: 0.7, top_p: 0.9, max_tokens: 12, seed: -3, stop: ["a", "\n\n", " b"] };
  expect(read(typed(parameters), {})).toEqual({ parameters, wrong: {} });
  expect(read({ ...empty, temperature: " 0,5 " }, {}).parameters).toEqual({ temperature: 0.5 });
});

test("what the node would refuse is told before", () => {
  const fields = { temperature: "-1", top_p: "0", max_tokens: "1.5", seed: "9007199254740993", stop: "x\n".repeat(17) };
  expect(Object.keys(read(fields, {}).wrong)).toEqual(["temperature", "top_p", "max_tokens", "seed", "stop"]);
  for (const text of ["hot", "NaN", "Infinity", "1e999"]) expect(read({ ...empty, temperature: text }, {}).wrong).toEqual({ temperature: true });
});

test("parameters of other programs stay in the chat and are not sent", () => {
  const strange = { temperature: 0, mirostat: 2, top_p: "high" } as object;
  expect(read(empty, strange).parameters).toEqual({ mirostat: 2 });
  expect(setParameters(strange)).toEqual({ temperature: 0 });
});

test("the request holds the branch, the instructions, and no thoughts", () => {
  const message = (id: string, role: Message["role"], text: string): Message => ({ id, parent: null, role, text, created_ms: 0, meta: { state: "done" } });
  const branch = [message("1", "user", "a"), message("2", "assistant", "<think>x</think>b"), message("3", "assistant", ""), message("4", "user", "c")];
  const body = request({ id: "chat", system: "Be brief.", parameters: { seed: 1 } }, "demo", branch, "5");
  expect(body.messages).toEqual([
    { role: "system", content: "Be brief." },
    { role: "user", content: "a" },
    { role: "assistant", content: "b" },
    { role: "user", content: "c" },
  ]);
  expect(body.shoal).toEqual({ status: true, resume_s: 600, chat: "chat", message: "5", parent: "4" });
  expect([body.seed, body.stream, body.model]).toEqual([1, true, "demo"]);
});
