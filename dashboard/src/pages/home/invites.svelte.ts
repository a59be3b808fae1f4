/** The invitations that this node made. The ticket on the screen is kept while the page lives: the node tells it only once. */
import { ApiFailure, api, part } from "../../lib/api";
import type { Invite, Ticket } from "./types";

export interface Terms {
  /** Seconds for which the ticket is good. */
  expires_s: number;
  single_use: boolean;
}

class Invites {
  ticket: Ticket | null = $state.raw(null);
  all: Invite[] = $state.raw([]);
  terms: Terms = $state.raw({ expires_s: 86_400, single_use: false });
  error: unknown = $state.raw(null);
  isMaking = $state(false);

  /** What has become of the ticket on the screen. */
  get state(): Invite["state"] {
    return this.all.find((it) => it.id === this.ticket?.id)?.state ?? "open";
  }

  /** Opens the door: the ticket of before while it is good, else a new one. */
  async begin(): Promise<void> {
    if (this.ticket !== null) await this.read();
    if (this.ticket === null || this.state !== "open") await this.make(this.terms);
  }

  /** Makes a ticket; the one before it on the screen, if nobody came with it, is void. */
  async make(terms: Terms): Promise<void> {
    this.isMaking = true;
    this.terms = terms;
    const before = this.ticket;
    try {
      this.ticket = await api.post<Ticket>("invite", terms);
      this.error = null;
      const isUnused = this.all.every((it) => it.id !== before?.id || it.joined.length === 0);
      if (before !== null && isUnused) await this.#end(before.id);
      await this.read();
    } catch (error) {
      this.error = error;
    }
    this.isMaking = false;
  }

  async read(): Promise<void> {
    this.all = (await api.get<{ invites: Invite[] }>("invites")).invites;
  }

  async revoke(id: string): Promise<void> {
    await this.#end(id);
    await this.read();
  }

  async #end(id: string): Promise<void> {
    try {
      await api.delete(`invites/${part(id)}`);
    } catch (error) {
      // The node was started anew and knows nothing of it any more.
      if (!(error instanceof ApiFailure && error.status === 404)) throw error;
    }
  }
}

/** One for the page's life. */
export const invites = new Invites();
