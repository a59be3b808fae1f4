import { expect, test } from "vitest";

import { meant, shown, type Bounds } from "./number";

const percent: Bounds = { min: 0, max: 90, scale: 1, isOptional: false };
const rate: Bounds = { min: 16_384, max: 10_000_000_000, scale: 1_000_000, isOptional: true };

test("a value is shown in the unit that people read", () => {
  expect(shown(10, 1)).toBe("10");
  expect(shown(2_500_000, 1_000_000)).toBe("2.5");
  expect(shown(null, 1_000_000)).toBe("");
});

test("what people write is taken where it can be meant", () => {
  expect(meant(" 15 ", percent)).toBe(15);
  expect(meant("2,5", rate)).toBe(2_500_000);
  expect(meant("", rate)).toBe(null);
});

test("what is no value is none", () => {
  for (const text of ["", "91", "-1", "1.5", "0x1f", "1e1", "ten", "1 2", "Infinity"]) expect(meant(text, percent), text).toBe(undefined);
  for (const text of ["0", "0.001", "99999"]) expect(meant(text, rate), text).toBe(undefined);
});
