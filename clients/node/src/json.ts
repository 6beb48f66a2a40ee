// How values become bytes: JSON, or an object of the user with the same names.

/** Replaces JSON, for example by a format for binary data. `decode` throws if the data is not of that format. */
export interface Serializer {
  readonly contentType: string;
  encode(value: unknown): Uint8Array;
  decode(data: Buffer): unknown;
}

export const JSON_TYPE = 'application/json';

/** Rejects what JSON.stringify would silently drop or change. An object with `toJSON` says itself what it is. */
function check(value: unknown, path: string): void {
  const reject = (what: string): never => {
    throw new TypeError(`${what} at ${path} is no JSON: convert it, or pass a serializer`);
  };
  switch (typeof value) {
    case 'number':
      if (!Number.isFinite(value)) reject(String(value));
      return;
    case 'bigint':
    case 'function':
    case 'symbol':
    case 'undefined':
      reject(`a value of type ${typeof value}`);
      return;
    case 'object':
      if (value === null) return;
      if (typeof (value as { toJSON?: unknown }).toJSON === 'function' && !ArrayBuffer.isView(value)) return;
      if (Array.isArray(value)) {
        value.forEach((item, index) => check(item, `${path}[${index}]`));
        return;
      }
      if (value instanceof Map || value instanceof Set || ArrayBuffer.isView(value) || value instanceof ArrayBuffer) {
        reject(`a ${value.constructor.name}`);
      }
      for (const [name, item] of Object.entries(value)) if (item !== undefined) check(item, `${path}.${name}`);
  }
}

const decoder = new TextDecoder('utf-8', { fatal: true });

export const jsonSerializer: Serializer = {
  contentType: JSON_TYPE,
  encode(value) {
    let text: string | undefined;
    try {
      text = JSON.stringify(value);
    } catch (error) {
      throw new TypeError(`the value is no JSON (${String(error)}): convert it, or pass a serializer`, { cause: error });
    }
    check(value, 'the value');
    return Buffer.from(text);
  },
  decode(data) {
    return JSON.parse(decoder.decode(data)) as unknown;
  },
};
