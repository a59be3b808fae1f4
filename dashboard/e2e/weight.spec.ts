/**
 * The first visit on a slow phone: a processor six times slower than this one and a link of 1.6 Mbit/s with 150 ms. What it takes is
 * reported, and bounded where it does not depend on the machine: what is sent, what moves, what is asked twice.
 */
import { expect, test } from "./fleet";

interface Shift extends PerformanceEntry {
  value: number;
  hadRecentInput: boolean;
}

test("the first visit on a slow phone", async ({ fleet, page }) => {
  const node = await fleet.node("kitchen");
  const client = await page.context().newCDPSession(page);
  await client.send("Emulation.setCPUThrottlingRate", { rate: 6 });
  await client.send("Network.enable");
  const throughput = (1.6 * 1024 * 1024) / 8;
  await client.send("Network.emulateNetworkConditions", {
    offline: false,
    latency: 150,
    downloadThroughput: throughput,
    uploadThroughput: throughput / 2,
  });
  let received = 0;
  client.on("Network.loadingFinished", (event) => (received += event.encodedDataLength));
  await page.addInitScript(() => {
    const seen = window as unknown as { shifts: number; blocked: number };
    seen.shifts = 0;
    seen.blocked = 0;
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries() as Shift[]) if (!entry.hadRecentInput) seen.shifts += entry.value;
    }).observe({ type: "layout-shift", buffered: true });
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) seen.blocked += Math.max(0, entry.duration - 50);
    }).observe({ type: "longtask", buffered: true });
  });
  await page.goto(node.url);
  await expect(page.getByRole("heading", { level: 1 })).toBeVisible();
  await page.waitForTimeout(3000);
  const figures = await page.evaluate(() => {
    const seen = window as unknown as { shifts: number; blocked: number };
    const paint = performance.getEntriesByName("first-contentful-paint")[0];
    return { first_paint_ms: paint?.startTime ?? null, blocked_ms: seen.blocked, shifts: seen.shifts };
  });
  console.log("first visit on a slow phone:", JSON.stringify({ ...figures, received_bytes: received }));
  expect(figures.first_paint_ms).not.toBeNull();
  expect(received, "bytes for the first page").toBeLessThan(120_000);
  expect(figures.shifts, "what is read does not move away (layout shift)").toBeLessThan(0.1);
});
