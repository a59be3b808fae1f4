/** The dialog for a further device, from the ticket on the page to the device on the page. */
import type { Locator, Page } from "@playwright/test";

import { expect, test, type Node } from "./fleet";

interface Ticket {
  id: string;
  ticket: string;
  single_use: boolean;
  qr: { size: number; path: string };
}

/** Does something that makes a ticket, and returns what the node said. */
async function ticketOf(page: Page, act: () => Promise<unknown>): Promise<Ticket> {
  const made = page.waitForResponse((it) => it.request().method() === "POST" && it.url().endsWith("/invite"));
  await act();
  return (await (await made).json()) as Ticket;
}

const dialog = (page: Page): Locator => page.getByRole("dialog", { name: "Add a device" });
const command = (page: Page): Locator => dialog(page).getByRole("group", { name: "The command for the new device" });
const stateOf = async (node: Node, id: string): Promise<string | undefined> =>
  (await node.get<{ invites: { id: string; state: string }[] }>("/invites")).invites.find((it) => it.id === id)?.state;

test("a second device joins by the ticket on the page, which notices", async ({ fleet, page }) => {
  const node = await fleet.node("kitchen");
  await page.goto(node.url);
  const made = await ticketOf(page, () => page.getByRole("link", { name: "Add a device" }).click());
  await expect(command(page)).toHaveText(/^shoal serve --join shoal2[a-z0-9]+$/);
  await expect(dialog(page)).toContainText(/2[34] h( \d+ min)? left/);
  await expect(dialog(page)).toContainText("What it will bring");

  // The code on the page is the one that the node made of this ticket: as many squares, each of them dark where it says so.
  const code = dialog(page).getByRole("img", { name: "The ticket as a QR code" });
  await expect(code).toHaveAttribute("viewBox", `0 0 ${made.qr.size} ${made.qr.size}`);
  await expect(code.locator("path")).toHaveAttribute("d", made.qr.path);
  const box = await code.boundingBox();
  expect(Math.abs((box?.width ?? 0) - (box?.height ?? 1))).toBeLessThan(1);

  const shown = (await command(page).innerText()).split(" ").pop() ?? "";
  expect(shown).toBe(made.ticket);
  await fleet.node("old-pixel", { ticket: shown });
  await expect(dialog(page).getByRole("status")).toContainText("old-pixel has joined.");
  await page.keyboard.press("Escape");
  await expect(page).toHaveURL(/#\/home$/);
  await expect(page.getByRole("button", { name: "About old-pixel" })).toBeVisible();

  // The same ticket is shown again while it is good.
  await page.getByRole("link", { name: "Add a device" }).click();
  await expect(command(page)).toContainText(made.ticket);
});

test("a ticket for one device is used up by it", async ({ fleet, page }) => {
  const node = await fleet.node("kitchen");
  const first = await ticketOf(page, () => page.goto(`${node.url}/#/home/add`));
  const made = await ticketOf(page, () => dialog(page).getByLabel("For one device only").click());
  expect(made.single_use).toBe(true);
  await expect(command(page)).toContainText(made.ticket);
  // The one before was on the screen for a moment only, and is void.
  await expect.poll(() => stateOf(node, first.id)).toBe("void");

  await fleet.node("old-pixel", { ticket: made.ticket });
  await expect(dialog(page)).toContainText("This ticket has been used.");
  const next = await ticketOf(page, () => dialog(page).getByRole("button", { name: "Make another" }).click());
  expect(next.ticket).not.toBe(made.ticket);
  await expect(command(page)).toContainText(next.ticket);
});

test("open invitations are listed and made void", async ({ fleet, page }) => {
  const node = await fleet.node("kitchen");
  const { id } = await node.post<{ id: string }>("/invite", { expires_s: 3600 });
  await page.goto(`${node.url}/#/home/add`);
  await expect(dialog(page).getByRole("heading", { name: "Other invitations that are open" })).toBeVisible();
  await dialog(page).getByRole("button", { name: /^Make void/ }).click();
  await expect(dialog(page).getByRole("heading", { name: "Other invitations that are open" })).toHaveCount(0);
  expect(await stateOf(node, id)).toBe("void");
});
