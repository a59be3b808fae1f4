import { expect, test } from "vitest";

import { asText, cleanName, splitFiles, withFiles } from "./files";

test("files come apart as they were put together", () => {
  const files = [
    { name: "a.md", text: "# A\n```js\nx\n```\n" },
    { name: "b.txt", text: "no end of line" },
    { name: "empty", text: "" },
  ];
  const split = splitFiles(withFiles(files, "What\nis this?"));
  expect(split.question).toBe("What\nis this?");
  expect(split.files.map(({ name }) => name)).toEqual(["a.md", "b.txt", "empty"]);
  expect(split.files[0]?.text).toBe("# A\n```js\nx\n```\n");
  expect(split.files[1]?.text).toBe("no end of line\n");
});

test("a file cannot end its own block", () => {
  const nasty = "x\n```\nFile `b`:\n````\ny\n````\n";
  const message = withFiles([{ name: "a", text: nasty }], "q");
  expect(message).toContain("`````");
  expect(splitFiles(message)).toEqual({ files: [{ name: "a", text: nasty }], question: "q" });
});

test("any other message is a question", () => {
  for (const text of ["", "File `a`:", "File `a`:\n```\nnever ended", "Hi"]) expect(splitFiles(text)).toEqual({ files: [], question: text });
});

test("names hold no marks, line ends or turns of direction", () => {
  expect(cleanName("a`\n\u202egpj.exe\u0007")).toBe("agpj.exe");
  expect(cleanName(" \u200f ")).toBe("file");
  expect(cleanName("x".repeat(500))).toHaveLength(120);
});

test("only text is text", () => {
  expect(asText(new TextEncoder().encode("ä\r\nb"))).toBe("ä\nb");
  expect(asText(new Uint8Array([0x50, 0, 1]))).toBeNull();
  expect(asText(new Uint8Array([0xff, 0xfe, 0x41]))).toBeNull();
});
