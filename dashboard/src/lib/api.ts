/** Requests to the node that this page came from. */

/** A request that failed, in the node's own words. */
export class ApiFailure extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(message);
    this.name = "ApiFailure";
    this.status = status;
    this.code = code;
  }
}

/** The node asks for a token that this browser does not have, or has heard too many wrong ones. */
export function needsToken(error: unknown): boolean {
  return error instanceof ApiFailure && (error.status === 401 || error.code === "too_many_guesses");
}

/** Makes a sentence of a message: the API's begin small and end without a full stop. */
export function sentence(message: string): string {
  const text = message.trim();
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(begun) ? begun : `${begun}.`;
}

/** What to tell a reader of anything that was thrown. */
export function told(error: unknown): string {
  if (error instanceof ApiFailure) return sentence(error.message);
  if (error instanceof TypeError) return "The node does not answer.";
  return sentence(error instanceof Error ? error.message : String(error));
}

/** The failure that a response tells of. */
export async function failureOf(response: Response): Promise<ApiFailure> {
  let message = `the node answered with status ${response.status}`;
  let code = "";
  try {
    const body: unknown = await response.json();
    const error = (body as { error?: { message?: unknown; code?: unknown } }).error;
    if (typeof error?.message === "string") message = error.message;
    if (typeof error?.code === "string") code = error.code;
  } catch {
    // Not the API's own words: the status has to do.
  }
  return new ApiFailure(response.status, code, message);
}

/** Sends a request; `body` goes as JSON. Throws `ApiFailure` for an error status and `TypeError` where nobody answers. */
export async function send(
  method: string,
  path: string,
  body?: unknown,
  signal?: AbortSignal,
): Promise<Response> {
  const init: RequestInit = { method, cache: "no-store" };
  if (signal !== undefined) init.signal = signal;
  if (body !== undefined) {
    init.headers = { "content-type": "application/json" };
    init.body = JSON.stringify(body);
  }
  const response = await fetch(path, init);
  if (!response.ok) throw await failureOf(response);
  return response;
}

async function json<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  const response = await send(method, path, body, signal);
  return response.status === 204 ? (undefined as T) : ((await response.json()) as T);
}

export const api = {
  get: <T>(path: string, signal?: AbortSignal) => json<T>("GET", path, undefined, signal),
  post: <T>(path: string, body: unknown = {}, signal?: AbortSignal) => json<T>("POST", path, body, signal),
  patch: <T>(path: string, body: unknown) => json<T>("PATCH", path, body),
  delete: <T>(path: string) => json<T>("DELETE", path),
};

/** A part of a path or a query, as it has to be written there. */
export const part = encodeURIComponent;
