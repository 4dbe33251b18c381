// The first part of an address and its screen. A screen is loaded when it is first opened.

/** @type {Record<string, () => Promise<any>>} */
export const SCREENS = {
  '': async () => (await import('./home.js')).Home,
  records: async () => (await import('./records/index.js')).Records,
  collections: async () => (await import('./collections/index.js')).Collections,
  databases: async () => (await import('./databases.js')).Databases,
  workflows: async () => (await import('./workflows/index.js')).Workflows,
  jobs: async () => (await import('./jobs.js')).Jobs,
  webhooks: async () => (await import('./webhooks.js')).Webhooks,
  replication: async () => (await import('./replication.js')).Replication,
  requests: async () => (await import('./requests/index.js')).Requests,
  files: async () => (await import('./files.js')).Files,
  sql: async () => (await import('./sql.js')).Sql,
  backups: async () => (await import('./backups.js')).Backups,
  settings: async () => (await import('./settings.js')).Settings,
  access: async () => (await import('./access.js')).Access,
};
