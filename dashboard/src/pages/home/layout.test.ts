import { describe, expect, it } from "vitest";

import { curve, hops, layout, order } from "./layout";

describe("the picture of the devices", () => {
  it("has a place for each, inside of it and apart from the others", () => {
    for (const width of [264, 288, 302, 700, 1264]) {
      for (let n = 1; n <= 12; n++) {
        const { points, height, room, half } = layout(n, width, 1);
        expect(points.length).toBe(n);
        for (const [i, { x, y }] of points.entries()) {
          const what = `${n} in ${width}`;
          expect(x - room / 2, what).toBeGreaterThanOrEqual(0);
          expect(x + room / 2, what).toBeLessThanOrEqual(width);
          expect(y - half, what).toBeGreaterThanOrEqual(0);
          expect(y + half + 60, what).toBeLessThanOrEqual(height);
          for (const other of points.slice(0, i)) {
            const isBeside = Math.abs(other.x - x) >= room;
            const isBelow = Math.abs(other.y - y) >= half * 2 + 60;
            expect(isBeside || isBelow, what).toBe(true);
          }
        }
      }
    }
  });

  it("does not change its height with the width of a scroll bar", () => {
    expect(layout(3, 1264, 1).height).toBe(layout(3, 1249, 1).height);
  });

  it("is a ring: who follows whom stands beside or below", () => {
    const { points } = layout(8, 1000, 2);
    for (const [i, point] of points.entries()) {
      const next = points[i + 1];
      if (next !== undefined) expect(Math.hypot(next.x - point.x, next.y - point.y)).toBeLessThan(300);
    }
  });

  it("follows a token through the stages and back", () => {
    expect(hops("a", ["a", "b", "c"])).toEqual([["a", "b"], ["b", "c"], ["c", "a"]]);
    expect(hops("a", ["b"])).toEqual([["a", "b"], ["b", "a"]]);
    expect(hops("a", ["a"])).toEqual([]);
  });

  it("keeps there and back apart", () => {
    const [a, b] = [{ x: 0, y: 50 }, { x: 200, y: 50 }];
    expect(curve(a, b, true)).toEqual({ d: "M0 50Q100 28 200 50", middle: { x: 100, y: 39 } });
    expect(curve(b, a, true)).toEqual({ d: "M200 50Q100 72 0 50", middle: { x: 100, y: 61 } });
    expect(curve(a, b, false).middle).not.toEqual(curve(b, a, false).middle);
  });

  it("puts this device first and the others along the model", () => {
    const of = (id: string, is_self = false) => ({ id, name: id, is_self });
    const devices = [of("a"), of("b"), of("c", true), of("d"), of("e")];
    expect(order(devices, [["d", "c", "b"]]).map((it) => it.id)).toEqual(["c", "b", "d", "a", "e"]);
    expect(order(devices, []).map((it) => it.id)).toEqual(["c", "a", "b", "d", "e"]);
  });
});
