CREATE TABLE products (id serial PRIMARY KEY, name text NOT NULL, cents integer NOT NULL CHECK (cents >= 0));
INSERT INTO products (name, cents) VALUES ('Signal lamp', 2490), ('Points lever', 8900), ('Timetable', 450), ('Whistle', 1290);
-- psql runs what is in backquotes.
\set service_password `cat /run/secrets/service_password`
CREATE ROLE service LOGIN PASSWORD :'service_password';
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO service;
