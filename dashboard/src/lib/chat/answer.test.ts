import { describe, expect, test } from "vitest";

import { follow, type Sink, type Status, type Wire } from "./answer";

const chunk = (id: number, content: string): string =>
  `id: ${id}\ndata: ${JSON.stringify({ id: "c-1", choices: [{ delta: { content }, finish_reason: null }] })}\n\n`;
const finish = (id: number): string =>
  `id: ${id}\ndata: {"id":"c-1","choices":[{"delta":{},"finish_reason":"stop"}]}\n\nid: ${id + 1}\ndata: [DONE]\n\n`;

/** A response whose stream ends, or breaks where `breaks`. */
function stream(text: string, breaks = false): Response {
  let isSent = false;
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      if (!isSent) controller.enqueue(new TextEncoder().encode(text));
      else if (breaks) controller.error(new TypeError("network"));
      else controller.close();
      isSent = true;
    },
  });
  return new Response(body);
}
const refusal = (status: number, code: string): Response =>
  new Response(JSON.stringify({ error: { message: "no", code, param: "model" } }), { status });

class Heard implements Sink {
  all = "";
  names: string[] = [];
  statuses: Status[] = [];
  waits: boolean[] = [];
  named(id: string): void {
    this.names.push(id);
  }
  restarted(): void {
    this.all = "";
  }
  wrote(piece: string): void {
    this.all += piece;
  }
  status(status: Status): void {
    this.statuses.push(status);
  }
  waiting(isWaiting: boolean): void {
    this.waits.push(isWaiting);
  }
}

/** Gives the responses in their order; a function throws as a network would. */
function wire(responses: (Response | "unreachable")[]): Wire & { asked: (string | null)[]; slept: number[] } {
  const asked: (string | null)[] = [];
  const slept: number[] = [];
  const next = (what: string | null): Promise<Response> => {
    asked.push(what);
    const response = responses.shift();
    if (response === undefined) throw new Error("asked too often");
    return response === "unreachable" ? Promise.reject(new TypeError("network")) : Promise.resolve(response);
  };
  return {
    asked,
    slept,
    ask: () => next("ask"),
    attach: (completion, last) => next(`${completion}@${last ?? ""}`),
    sleep: (ms) => {
      slept.push(ms);
      return Promise.resolve();
    },
  };
}

const never = new AbortController().signal;

describe("an answer", () => {
  test("is whole with its last event", async () => {
    const heard = new Heard();
    const ending = await follow(wire([stream(chunk(0, "a") + chunk(1, "b") + finish(2))]), heard, never);
    expect(ending).toEqual({ kind: "done", reason: "stop", usage: null });
    expect(heard.all).toBe("ab");
    expect(heard.names).toEqual(["c-1"]);
  });

  test("goes on after a break, where it was", async () => {
    const heard = new Heard();
    const line = wire([stream(chunk(0, "a") + chunk(1, "b"), true), "unreachable", refusal(503, "x"), stream(chunk(2, "c") + finish(3))]);
    const ending = await follow(line, heard, never);
    expect(ending.kind).toBe("done");
    expect(heard.all).toBe("abc");
    expect(line.asked).toEqual(["ask", "c-1@1", "c-1@1", "c-1@1"]);
    expect(line.slept).toEqual([500, 1000, 2000]);
    expect(heard.waits).toEqual([false, true, true, false]);
  });

  test("that ends without its last event is never taken for whole", async () => {
    const heard = new Heard();
    const line = wire([stream(chunk(0, "a")), refusal(404, "answer_not_found")]);
    expect(await follow(line, heard, never)).toEqual({ kind: "gone" });
  });

  test("is attached to from its beginning after a reload", async () => {
    const heard = new Heard();
    heard.all = "old";
    const line = wire([stream(chunk(0, "a") + finish(1))]);
    await follow(line, heard, never, "c-1");
    expect(line.asked).toEqual(["c-1@"]);
    expect(heard.all).toBe("a");
  });

  test("that is refused says which field is wrong", async () => {
    const ending = await follow(wire([refusal(400, "x")]), new Heard(), never);
    expect(ending).toEqual({ kind: "refused", status: 400, error: { message: "no", code: "x", param: "model" } });
  });

  test("that nobody heard of is not asked for twice", async () => {
    const line = wire(["unreachable"]);
    expect(await follow(line, new Heard(), never)).toEqual({ kind: "unsent" });
    expect(line.asked).toEqual(["ask"]);
  });

  test("fails with the node's error", async () => {
    const ending = await follow(wire([stream(`${chunk(0, "a")}data: {"error":{"message":"lost","code":"node_lost"}}\n\n`)]), new Heard(), never);
    expect(ending).toEqual({ kind: "failed", error: { message: "lost", code: "node_lost" } });
  });

  test("tells how it stands, and skips events that nobody knows", async () => {
    const heard = new Heard();
    const status = 'id: 0\nevent: shoal.status\ndata: {"state":"queued","position":2}\n\nevent: new\ndata: {"error":{}}\n\ndata: {broken\n\n';
    expect((await follow(wire([stream(status + chunk(1, "a") + finish(2))]), heard, never)).kind).toBe("done");
    expect(heard.statuses).toEqual([{ state: "queued", position: 2 }]);
  });

  test("is left when its reader is", async () => {
    const leaving = new AbortController();
    leaving.abort();
    expect(await follow(wire([]), new Heard(), leaving.signal)).toEqual({ kind: "left" });
  });
});
