CREATE TABLE orders (
  id serial PRIMARY KEY,
  key text NOT NULL UNIQUE,
  customer text NOT NULL,
  cents integer,
  status text NOT NULL DEFAULT 'placed'
);
-- Orders whose message is not sent yet.
CREATE TABLE outbox (order_id integer PRIMARY KEY REFERENCES orders);
-- psql runs what is in backquotes.
\set service_password `cat /run/secrets/service_password`
CREATE ROLE service LOGIN PASSWORD :'service_password';
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO service;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO service;
