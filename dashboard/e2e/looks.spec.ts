/**
 * Every page on a phone and on a desk, dark and light: nothing that axe-core objects to, nothing wider than the screen, and
 * a picture for `docs/dashboard` (with `SCREENSHOTS=1`).
 */
import AxeBuilder from "@axe-core/playwright";
import type { Page } from "@playwright/test";

import { expect, test, type Node } from "./fleet";

const PAGES = ["home", "chat", "models", "activity", "doctor", "integrations", "settings"] as const;
const SCREENS = {
  phone: { width: 360, height: 740 },
  desk: { width: 1440, height: 900 },
} as const;
/** Where pictures go. */
const PICTURES = "../docs/dashboard";

/** Waits until a page shows what it has to show. */
async function settled(page: Page): Promise<void> {
  await expect(page.getByRole("heading", { level: 1 })).toHaveCount(1);
  await expect(page.locator("[role=status].loading")).toHaveCount(0);
  await page.evaluate(() => Promise.all(document.getAnimations().map((it) => it.finished.catch(() => undefined))));
}

async function visit(page: Page, node: Node, name: string): Promise<void> {
  await page.goto(`${node.url}/#/${name}`);
  await settled(page);
}

/** A chat with an answer; returns its place. */
async function talk(node: Node): Promise<string> {
  const text = "What is Shoal?";
  const { id } = await node.post<{ id: string }>("/chats", { title: "About Shoal", model: "demo" });
  const { id: parent } = await node.post<{ id: string }>(`/chats/${id}/messages`, { parent: null, role: "user", text });
  const shoal = { chat: id, message: "0123456789abcdef0123456789abcdef", parent };
  const messages = [{ role: "user", content: text }];
  await node.post("/v1/chat/completions", { model: "demo", temperature: 0, messages, shoal });
  return `chat/${id}`;
}

for (const [screen, viewport] of Object.entries(SCREENS)) {
  for (const colorScheme of ["light", "dark"] as const) {
    test.describe(`${screen}, ${colorScheme}`, () => {
      test.use({ viewport, colorScheme, reducedMotion: "reduce", deviceScaleFactor: screen === "phone" ? 2 : 1 });

      test("every page reads well", async ({ fleet, page }) => {
        const [node] = (await fleet.cluster(["kitchen", "old-pixel"])) as [Node, Node];
        await node.post("/place_instance", { model: "demo", nodes: 2 });
        const state = await node.until("the model is ready", ({ instances }) => instances.some((it) => it.placement.length === 2 && it.state === "ready"));
        // What each device placed on itself when it started.
        for (const it of state.instances) if (it.placement.length === 1) await node.delete(`/instance/${it.id}`);
        const chat = await talk(node);
        for (const name of PAGES) {
          await test.step(name, async () => {
            await visit(page, node, name === "chat" ? chat : name);
            const found = await new AxeBuilder({ page }).analyze();
            const violations = found.violations.map(({ id, nodes }) => [id, ...nodes.map((it) => it.html)]);
            expect(violations, `${name}: axe-core`).toEqual([]);
            const width = await page.evaluate(() => document.documentElement.scrollWidth);
            expect(width, `${name}: wider than the screen`).toBeLessThanOrEqual(viewport.width);
            if (process.env["SCREENSHOTS"] === "1") {
              await page.screenshot({ path: `${PICTURES}/${name}-${screen}-${colorScheme}.png` });
            }
          });
        }
      });
    });
  }
}

test("the way through the page by keyboard begins with the content", async ({ fleet, page }) => {
  const node = await fleet.node("kitchen");
  await visit(page, node, "home");
  await page.keyboard.press("Tab");
  await expect(page.getByRole("link", { name: "Skip to the page" })).toBeFocused();
  await page.keyboard.press("Enter");
  await expect(page.getByRole("main")).toBeFocused();
  // A new page takes the focus along.
  await page.getByRole("link", { name: "Models" }).click();
  await expect(page.getByRole("main")).toBeFocused();
});

test("a lost connection is said, and found again", async ({ fleet, page }) => {
  const node = await fleet.node("kitchen");
  await visit(page, node, "home");
  await node.kill();
  await expect(page.getByRole("alert")).toContainText("The connection to this device is lost");
  await node.start();
  await expect(page.getByText("The connection to this device is lost")).toHaveCount(0);
});

test("an address that names no page says so", async ({ fleet, page }) => {
  const node = await fleet.node("kitchen");
  await page.goto(`${node.url}/#/nowhere`);
  await expect(page.getByText("There is no such page")).toBeVisible();
  await page.getByRole("link", { name: "Go home" }).click();
  await expect(page).toHaveURL(/#\/home$/);
});
