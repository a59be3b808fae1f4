import type { Token } from "marked";
import { describe, expect, test } from "vitest";

import { Blocks } from "./blocks";
import { decoded, plain, safeLink, tokensOf } from "./markdown";

/** Every token of a tree. */
function every(tokens: readonly Token[]): Token[] {
  return tokens.flatMap((token) => {
    const nested = token as Token & { tokens?: Token[]; items?: Token[]; header?: { tokens: Token[] }[]; rows?: { tokens: Token[] }[][] };
    const cells = [...(nested.header ?? []), ...(nested.rows ?? []).flat()].flatMap((cell) => cell.tokens);
    return [token, ...every(nested.tokens ?? []), ...every(nested.items ?? []), ...every(cells)];
  });
}
const types = (text: string): string[] => every(tokensOf(text)).map(({ type }) => type);

describe("tokens", () => {
  test("HTML is text", () => {
    const nasty = '<img src=x onerror=alert(1)> <script>alert(1)</script>\n\n<div>\n**bold**\n</div>\n\n<!-- c --> a <b onclick="x">b</b>';
    expect(types(nasty)).not.toContain("html");
    expect(types(nasty)).toContain("strong");
    expect(tokensOf(nasty).map(({ raw }) => raw).join("")).toBe(nasty);
  });

  test("maths in its four ways", () => {
    const found = every(tokensOf("a $x^2$ b \\(y\\) c\n\n$$\nz\n$$\n\n\\[\nw\n\\]\n\nd $$v$$ e")).filter(({ type }) => type === "maths");
    expect(found.map((token) => ("text" in token ? token.text : ""))).toEqual(["x^2", "y", "z", "w", "v"]);
  });

  test("money is not maths, nor is code", () => {
    for (const text of ["It costs $5 and $10.", "$ a $", "`$x$`", "```\n$$x$$\n```", "\\$x\\$", "a\\\\b"]) {
      expect(types(text), text).not.toContain("maths");
    }
  });
});

describe("links", () => {
  test("lead to pages and mail only", () => {
    expect(safeLink("https://example.org/a?b#c")).toBe("https://example.org/a?b#c");
    expect(safeLink("http://example.org")).toBe("http://example.org/");
    expect(safeLink("mailto:a@example.org")).toBe("mailto:a@example.org");
    const nasty = ["javascript:alert(1)", "JaVa\nScript:alert(1)", " javascript:x", "data:text/html,x", "vbscript:x", "file:///etc", "#/settings", "/invite", "//x.y", "blob:https://x/y", "", "intent://x"];
    for (const href of nasty) expect(safeLink(href), href).toBeNull();
  });

  test("an address with marks that turn text is written out", () => {
    expect(safeLink("https://example.org/\u202egpj")).toBe("https://example.org/%E2%80%AEgpj");
  });

  test("entities become letters, never marks", () => {
    expect(decoded("a &lt;b&gt; &amp;amp; &#65;&#x42; &nope; &#0; &#xd800; &#x110000;")).toBe("a <b> &amp; AB &nope; &#0; &#xd800; &#x110000;");
  });

  test("a description is its words", () => {
    const image = every(tokensOf("![a **b** `c`](http://x/y.png)")).find(({ type }) => type === "image");
    expect(plain((image as { tokens?: Token[] }).tokens, "")).toBe("a b c");
  });
});

const LONG = [
  "# Title\n\nFirst *paragraph* with\ntwo lines.\n\n",
  "- a\n- b\n\n  more of b\n\n- c\n\n1. one\n\n2. two\n\n",
  "| a | b |\n|---|---|\n| 1 | 2 |\n\n",
  "```js\nlet x = 1;\n\nlet y = 2;\n```\n\nAfter\n=====\n\n> quote\n> more\n\n",
  "$$\na\n\n+ b\n$$\n\n#hash is no heading\r\n\r\n### Deep\n\nEnd <b>x</b>",
].join("");

describe("blocks", () => {
  test("of a text that grows letter by letter are those of the whole", () => {
    const growing = new Blocks();
    for (let n = 1; n <= LONG.length; n += 1) growing.update(LONG.slice(0, n), false);
    const grown = growing.update(LONG, true).map(({ token }) => token.raw);
    expect(grown).toEqual(new Blocks().update(LONG, true).map(({ token }) => token.raw));
  });

  test("look the same before the end as after it, wherever an empty line has parted them", () => {
    const growing = new Blocks();
    for (let n = 1; n <= LONG.length; n += 1) growing.update(LONG.slice(0, n), false);
    const before = growing.update(LONG, false).map(({ token }) => `${token.type} ${token.raw.trim()}`);
    expect(before).toEqual(new Blocks().update(LONG, true).map(({ token }) => `${token.type} ${token.raw.trim()}`));
  });

  test("that are finished keep their objects", () => {
    const blocks = new Blocks();
    const first = blocks.update("One.\n\nTwo.\n\nThree", false);
    const second = blocks.update("One.\n\nTwo.\n\nThree and a half", false);
    expect(second[0]).toBe(first[0]);
    expect(second[1]).toBe(first[1]);
    expect(second[2]).not.toBe(first[2]);
    const whole = blocks.update("One.\n\nTwo.\n\nThree and a half", true);
    expect(whole.map((block, i) => block === second[i])).toEqual([true, true, true]);
  });

  test("items of a list that grows keep their objects", () => {
    const blocks = new Blocks();
    const item = (all: ReturnType<Blocks["update"]>, i: number): unknown => (all[0]?.token as { items?: unknown[] }).items?.[i];
    const before = item(blocks.update("- a\n- b\n- c", false), 0);
    expect(item(blocks.update("- a\n- b\n- c d", false), 0)).toBe(before);
  });

  test("are read a few times at most, however long the text grows", () => {
    const blocks = new Blocks();
    const text = "A paragraph of some words.\n\n".repeat(400);
    for (let n = 20; n <= text.length; n += 5) blocks.update(text.slice(0, n), false);
    expect(blocks.nRead).toBeLessThan(text.length * 20);
  });

  test("begin anew with another text", () => {
    const blocks = new Blocks();
    blocks.update("One.\n\nTwo.\n\nThree.\n\nFour", false);
    expect(blocks.update("Other", false).map(({ token }) => token.raw)).toEqual(["Other"]);
  });

  test("headings come without gaps below the message's own", () => {
    const levels = new Blocks().update("### a\n\n# b\n\n### c\n\ntext", true).map(({ level }) => level);
    expect(levels).toEqual([3, 3, 4, 0]);
  });

  test("nonsense does not throw", () => {
    for (const text of ["", "[".repeat(3000), ">".repeat(3000), "*".repeat(5000), "- ".repeat(2000), "$".repeat(999), "`".repeat(999)]) {
      expect(() => new Blocks().update(text, false)).not.toThrow();
    }
  });
});
