CREATE TABLE users (id serial PRIMARY KEY, name text NOT NULL);
INSERT INTO users (name) VALUES ('Ada'), ('Grace'), ('Edsger');
-- psql runs what is in backquotes.
\set service_password `cat /run/secrets/service_password`
CREATE ROLE service LOGIN PASSWORD :'service_password';
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO service;
