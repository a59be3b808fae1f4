import { describe, expect, it } from "vitest";

import { parse, to } from "./address";

describe("addresses of pages", () => {
  it("names home where nothing is named", () => {
    for (const hash of ["", "#", "#/", "#/?x=1"]) expect(parse(hash).page).toBe("home");
  });

  it("reads what it writes", () => {
    const route = parse(to("chat", "a/b?c#d", "ü"));
    expect([route.page, ...route.rest]).toEqual(["chat", "a/b?c#d", "ü"]);
  });

  it("reads queries", () => {
    expect(parse("#/chat?model=Qwen%2FQwen2.5").query.get("model")).toBe("Qwen/Qwen2.5");
  });

  it("leaves what is not encoded well as it is", () => {
    expect(parse("#/chat/%E0%A4%A").rest).toEqual(["%E0%A4%A"]);
  });
});
