// Requests to the API. If a change needs a token, the page asks for it once and keeps it while this tab is open.

const KEY = 'pointsman-token';

/** An error reply of the server, or a failed request. */
export class Refusal extends Error {
  constructor(status, message, hint, code = '') {
    super(hint ? `${message} (${hint})` : message);
    this.status = status;
    this.code = code;
    this.plain = message;
  }
}

/** `api/v1/…` with its parts and parameters encoded. */
export function path(parts, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== '');
  const query = new URLSearchParams(given).toString();
  return `api/v1/${parts.map(encodeURIComponent).join('/')}${query ? `?${query}` : ''}`;
}

async function request(method, to, body) {
  const headers = {};
  const token = sessionStorage.getItem(KEY);
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  let response;
  try {
    response = await fetch(to, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Refusal(0, 'the server does not answer', 'nothing is known to have changed');
  }
  const answer = await response.json().catch(() => null);
  if (response.ok) return answer;
  const { message = `the server answers ${response.status}`, hint = '', code = '' } = answer?.error ?? {};
  throw new Refusal(response.status, message, hint, code);
}

/** Gets a path. */
export const get = (to) => request('GET', to);

/** Gets a path; `null` if this server does not have it. */
export async function ask(to) {
  try {
    return await get(to);
  } catch (refusal) {
    if (refusal.status === 404) return null;
    throw refusal;
  }
}

/** Makes a change. If it needs a token, calls `askToken(message)` until the token is right or the user cancels. */
export async function change(method, to, body, askToken) {
  for (;;) {
    try {
      return await request(method, to, body);
    } catch (refusal) {
      if (refusal.status !== 401) throw refusal;
      const wrong = sessionStorage.getItem(KEY) !== null;
      sessionStorage.removeItem(KEY);
      const token = await askToken(wrong ? 'That token was not accepted.' : refusal.message);
      if (token === null) throw new Refusal(401, 'nothing was changed: no token was given', '');
      sessionStorage.setItem(KEY, token);
    }
  }
}
