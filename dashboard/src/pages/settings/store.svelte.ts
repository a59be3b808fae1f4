/** The settings of the device that this page came from. */
import { api } from "../../lib/api";
import type { Code } from "../home/types";

export type Value = string | number | boolean | null;

/** One setting, as the node shows it. */
export interface Setting<T extends Value = Value> {
  value: T;
  default: T;
  /** What holds it whatever is asked for here: `flag`, or nothing. */
  fixed_by: string | null;
  min?: number;
  max?: number;
}

export interface Settings {
  name: Setting<string>;
  battery_floor_percent: Setting<number>;
  temperature_ceiling_c: Setting<number>;
  memory_share_percent: Setting<number>;
  download_bytes_per_s: Setting<number | null>;
  auto: Setting<boolean>;
  parallel: Setting<number>;
}

export interface Answer {
  settings: Settings;
  is_persisted: boolean;
  lan: {
    is_open: boolean;
    urls: string[];
    token_required: boolean;
    token: string | null;
    qr: Code | null;
    url_with_token: string | null;
  };
  data_dir?: string;
}

class Store {
  answer: Answer | null = $state.raw(null);
  error: unknown = $state.raw(null);

  async read(): Promise<void> {
    try {
      this.answer = await api.get<Answer>("settings");
      this.error = null;
    } catch (error) {
      this.error = error;
    }
  }

  /** Changes one of them, at once and for good. Throws what the node objects to. */
  async save(name: keyof Settings, value: Value): Promise<void> {
    await api.patch("settings", { [name]: value });
    await this.read();
  }
}

export const store = new Store();
