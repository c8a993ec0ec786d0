/** The addresses of this page: #/ and #/tasks/NAME and #/tasks/NAME/VERSION. */

const TASK = /^[a-z0-9][a-z0-9._-]{0,63}$/;

/** Where a task's page is, or that of one of its versions. */
export function taskLink(name, version = null) {
  return `#/tasks/${encodeURIComponent(name)}${version === null ? "" : `/${version}`}`;
}

/** {task, version} of a hash; task is null for the first page, version for the one on stable. */
export function parseHash(hash) {
  const [, place, name, version] = hash.replace(/^#/, "").split("/");
  const task = place === "tasks" && name ? decode(name) : null;
  return {
    task: task !== null && TASK.test(task) ? task : null,
    version: /^[1-9]\d{0,8}$/.test(version ?? "") ? Number(version) : null,
  };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}
