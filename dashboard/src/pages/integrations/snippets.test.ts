import { expect, test } from "vitest";

import { origins, PROGRAMS, quoted, shell, snippets, type Setup } from "./snippets";

const setup: Setup = { origin: "http://127.0.0.1:52415", model: "owner/m:Q4_K_M", token: null, context: 4096 };
const text = (of: Setup) => PROGRAMS.flatMap((it) => snippets(it, of).map((snippet) => snippet.text)).join("\n");

test("names the address and the model for every program that the node can serve", () => {
  for (const program of PROGRAMS.filter((it) => it !== "claude")) {
    const all = snippets(program, setup).map((it) => it.text).join("\n");
    expect(all, program).toContain("http://127.0.0.1:52415/v1");
    if (program !== "webui") expect(all, program).toContain("owner/m:Q4_K_M");
  }
});

test("offers nothing where the node has no API for it", () => {
  expect(snippets("claude", setup)).toEqual([]);
});

test("gives the token to each program, and no header without one", () => {
  for (const program of PROGRAMS.filter((it) => it !== "claude")) {
    const all = snippets(program, { ...setup, token: "s3cret" }).map((it) => it.text).join("\n");
    expect(all, program).toContain("s3cret");
  }
  expect(text(setup)).not.toContain("Authorization");
});

test("a name full of quotes stays a name", () => {
  const model = `it's "me" $(rm -rf ~) \\ \u202E`;
  expect(JSON.parse(quoted(model))).toBe(model);
  expect(quoted(model)).not.toContain("\u202E");
  expect(shell("it's $(x)")).toBe("'it'\\''s $(x)'");
  const body = /-d '(.*)'$/s.exec(snippets("curl", { ...setup, model })[0]?.text ?? "")?.[1] ?? "";
  expect((JSON.parse(body.replaceAll("'\\''", "'")) as { model: string }).model).toBe(model);
});

test("knows each address once", () => {
  expect(origins("http://a:1", ["http://b:1/", "http://a:1/"])).toEqual(["http://a:1", "http://b:1"]);
});
